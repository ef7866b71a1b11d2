"""What a campaign cannot promise is refused where it is declared."""

from __future__ import annotations

import pytest

from omnifed.models.spec import StudentSpec
from omnifed.privacy.rules import check_promises
from omnifed.privacy.spec import AggregationSpec, DPSpec
from omnifed.teachers.spec import TeacherSpec

GROUP = StudentSpec(norm="group")


def check(**changes: object) -> None:
    usual = {"sites": 6, "wire": "fp32", "student": GROUP, "teacher": TeacherSpec(), "searches": False}
    arms = ("fedavg", "fedbn")
    check_promises(**{"aggregation": AggregationSpec(), "dp": DPSpec(), "arms": arms, **usual, **changes})


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"student": StudentSpec()}, "batch norm mixes patients"),
        ({"student": StudentSpec.parse("omnisegnet:compact-edge")}, "without branches"),
        ({"arms": ("fedbn", "omnikd")}, "fine-tuned on the same patients"),
        ({"arms": ("omnikd",), "teacher": TeacherSpec(kind="onnx", sha256="0" * 64)}, "public = true"),
        ({"searches": True}, "search"),
    ],
)
def test_what_voids_differential_privacy_is_refused_with_the_reason(changes: dict[str, object], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        check(**changes)
    check(**{**changes, "dp": None})


@pytest.mark.parametrize(
    "changes",
    [
        {"arms": ("local", "fedavg", "fedprox", "fedbn")},
        {"aggregation": AggregationSpec(mode="private")},
        {"aggregation": AggregationSpec(mode="robust")},
        {"wire": "int8-delta"},
        {"arms": ("fedbn", "omnikd"), "teacher": TeacherSpec(kind="onnx", sha256="0" * 64, public=True)},
    ],
)
def test_what_works_on_noisy_weights_alone_is_permitted(changes: dict[str, object]) -> None:
    check(**changes)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"sites": 2}, "3 sites"),
        ({"aggregation": AggregationSpec(mode="private", threshold=3)}, "two thirds"),
        ({"wire": "bf16"}, "fp32"),
        ({"searches": True}, "single sites"),
    ],
)
def test_what_secure_aggregation_cannot_hide_is_refused(changes: dict[str, object], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        check(**{"aggregation": AggregationSpec(mode="private"), "dp": None, **changes})


def test_a_threshold_of_two_thirds_is_enough_and_two_sites_are_not_robust() -> None:
    check(aggregation=AggregationSpec(mode="private", threshold=4), dp=None)
    with pytest.raises(ValueError, match="odd one out"):
        check(aggregation=AggregationSpec(mode="robust"), sites=2)
    check(aggregation=AggregationSpec(mode="robust"), sites=3)
