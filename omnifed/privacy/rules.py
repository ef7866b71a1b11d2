"""Combinations of settings that would void what a campaign promises; refused before anything is asked of a site."""

from __future__ import annotations

from collections.abc import Collection

from omnifed.models.spec import StudentSpec
from omnifed.privacy.spec import AggregationSpec, DPSpec, least_threshold
from omnifed.teachers.spec import TeacherSpec


def check_promises(
    aggregation: AggregationSpec,
    dp: DPSpec | None,
    *,
    sites: int,
    wire: str,
    student: StudentSpec,
    teacher: TeacherSpec,
    arms: Collection[str],
    searches: bool,
) -> None:
    """Refuses what cannot be kept.

    Args:
        aggregation: how updates are combined.
        dp: differential privacy, or None.
        sites: that take part.
        wire: coding of the weights.
        student: what is trained.
        teacher: of the arm omnikd.
        arms: methods of the campaign.
        searches: whether networks or OmniKD's weights are searched for before.

    Raises:
        ValueError: with the rule and why.
    """
    if aggregation.mode == "private":
        _check_private(aggregation, sites=sites, wire=wire, searches=searches)
    if aggregation.mode == "robust" and sites < 3:
        raise ValueError(f"robust aggregation needs 3 sites: of {sites} updates none is the odd one out")
    if dp is not None:
        check_dp(student=student, teacher=teacher, arms=arms, searches=searches)


def check_dp(*, student: StudentSpec, teacher: TeacherSpec, arms: Collection[str], searches: bool) -> None:
    """Refuses what would void differential privacy of the patients.

    Args:
        student: what is trained.
        teacher: of the arm omnikd.
        arms: methods of the campaign.
        searches: whether networks or OmniKD's weights are searched for before.

    Raises:
        ValueError: with the rule and why.
    """
    if student.norm != "group":
        raise ValueError(
            "dp shortens the gradient of each patient by itself, and batch norm mixes patients: norm = group in the "
            "student, without branches"
        )
    if "omnikd" in arms and not teacher.public:
        raise ValueError(
            "dp ends where a student learns from a teacher that was fine-tuned on the same patients without it: leave "
            "omnikd out of arms, for example arms = fedbn, or use a teacher of kind onnx that was made without them "
            "and say so: public = true"
        )
    if searches:
        raise ValueError("a search trains on patients without dp and sends their scores: search without dp, before")


def _check_private(aggregation: AggregationSpec, *, sites: int, wire: str, searches: bool) -> None:
    threshold, least = aggregation.threshold_of(sites), least_threshold(sites)
    if not least <= threshold <= sites:
        raise ValueError(
            f"private aggregation needs 3 sites and a threshold of two thirds of them, at most all: {threshold} of "
            f"{sites}, at least {least}; with less a coordinator could learn one site's update"
        )
    if wire != "fp32":
        raise ValueError("private aggregation sends masked 32-bit numbers, which cannot be shortened: wire = fp32")
    if searches:
        raise ValueError("a search asks single sites for scores, which private aggregation hides: search without it")
