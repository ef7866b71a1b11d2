"""What a search may ask of a site: bounds of the schema, and which ends are never told of it."""

from __future__ import annotations

import math
from typing import Any

import pytest
from pydantic import ValidationError

from omnifed.devices.measurement import Measurement
from omnifed.errors import OmniFedError
from omnifed.federation.protocol import PROTOCOL, speak
from omnifed.federation.replies import REPLY, BenchReply, FitReply, TrialReply
from omnifed.federation.tasks import MOST_NETWORKS, TASK, BenchTask, FitTask, MaskedTask, TeachTask, TrialTask
from omnifed.models.spec import StudentSpec
from omnifed.privacy.spec import PrivacySpec
from omnifed.teachers.spec import TeacherSpec
from omnifed.training.spec import TrainSpec

TRIAL = TrialTask(id="c.t", student=StudentSpec(), train=TrainSpec(), fraction=0.2, teacher=TeacherSpec(), group="g-20")
BENCH = BenchTask(id="c.b", students=(StudentSpec(), StudentSpec(alpha=0.6)), threads=2)
MEASURED = Measurement(
    network="n", size=(32, 32), warmups=10, runs=50, p50_ms=2.0, p95_ms=2.5, cpu_ms=2.0, variation=0.01, load_ms=1.0,
    peak_mib=50.0,
)  # fmt: skip
SCORED = TrialReply(id="c.t", site="a", dice=0.7, se=0.02, paired=True, n=9, patients=3, step_seconds=0.2)
BENCHED = BenchReply(id="c.b", site="a", device="a board", memory_mib=4000, measurements=(MEASURED, MEASURED))


@pytest.mark.parametrize("body", [TRIAL, BENCH], ids=["trial", "bench"])
def test_a_task_comes_back_from_json_as_it_was(body: Any) -> None:
    assert TASK.validate_json(body.model_dump_json()) == body


@pytest.mark.parametrize("body", [SCORED, BENCHED], ids=["trial", "bench"])
def test_a_reply_comes_back_from_json_as_it_was(body: Any) -> None:
    assert REPLY.validate_json(body.model_dump_json()) == body


@pytest.mark.parametrize(
    ("body", "changes"),
    [
        (TRIAL, {"fraction": 0.0}),
        (TRIAL, {"fraction": 1.1}),
        (TRIAL, {"group": "../other"}),
        (TRIAL, {"code": "import os"}),
        (BENCH, {"students": []}),
        (BENCH, {"students": [{}] * (MOST_NETWORKS + 1)}),
        (BENCH, {"threads": 0}),
        (BENCH, {"engine": "tensorrt"}),
        (SCORED, {"dice": 1.2}),
        (SCORED, {"dice": math.nan}),
        (SCORED, {"se": -0.1}),
        (BENCHED, {"memory_mib": 0}),
        (BENCHED, {"device": "x" * 201}),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_the_schema_refuses(body: Any, changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        type(body).model_validate({**body.model_dump(), **changes})


@pytest.mark.parametrize("body", [TRIAL, BENCH, SCORED, BENCHED], ids=lambda body: type(body).__name__)
def test_a_whole_kind_is_never_spoken_to_an_older_end(body: Any) -> None:
    assert speak(body, PROTOCOL) == body.model_dump(mode="python")
    with pytest.raises(OmniFedError) as caught:
        speak(body, 2)
    assert caught.value.code == "OF513"
    assert caught.value.rule.endswith(f"({body.kind}).")


def test_what_an_older_end_knows_is_spoken_as_before() -> None:
    fit = FitTask(id="f", round=0, student=StudentSpec(), train=TrainSpec())
    assert speak(fit, 2) == fit.model_dump(mode="python", exclude={"purpose", "privacy", "attempt"}) | {"protocol": 2}

    asks = fit.model_copy(update={"privacy": PrivacySpec(mode="robust")})
    with pytest.raises(OmniFedError, match=r"fit\.privacy"):
        speak(asks, 3)


def test_a_field_inside_another_is_spoken_to_those_who_know_it() -> None:
    own = TeacherSpec(kind="onnx", sha256="0" * 64)
    asked = TeachTask(id="t", teacher=own)
    assert speak(asked, 4)["teacher"] == own.model_dump(mode="python", exclude={"public"})
    assert speak(FitTask(id="f", round=0, student=StudentSpec(), train=TrainSpec()), 4)["teacher"] is None
    public = TeachTask(id="t", teacher=own.model_copy(update={"public": True}))
    assert speak(public, 5)["teacher"]["public"]
    with pytest.raises(OmniFedError, match=r"protocol 5 .*teacher\.public"):
        speak(public, 4)


def test_a_private_exchange_is_never_spoken_to_an_older_end() -> None:
    sealed = MaskedTask(id="m", round=2, attempt=1, inbox={"north": "AA=="})
    assert TASK.validate_json(sealed.model_dump_json()) == sealed
    with pytest.raises(OmniFedError, match=r"\(masked\)"):
        speak(sealed, 3)
    trained = FitReply(id="f", site="a", n=0, steps=1, loss={}, dice=0, adopted=False)
    assert "keys" not in speak(trained, 3)
