"""Trials at a site: real students on a tiny site; what comes back, and what stays on disk."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_executor import STUDENT, TRAIN, data, squares  # noqa: F401 - data is a fixture

from omnifed.data.prepare import SiteData
from omnifed.data.site import IGNORE
from omnifed.distill.spec import DistillSpec
from omnifed.federation.replies import FailedReply, TrialReply
from omnifed.federation.tasks import Task, TeachTask, TrialTask
from omnifed.models.registry import build_student
from omnifed.models.slices import slice_map, take
from omnifed.models.weights import to_state
from omnifed.states import State
from omnifed.teachers.spec import TeacherSpec
from omnifed.training.spec import TrainSpec
from omnifed.transport.apps import client_app
from omnifed.transport.inprocess import InProcessGrid
from omnifed.transport.pool import TaskPool
from omnifed_client.executor import SiteExecutor
from omnifed_client.store import KEPT_TRIALS, SiteStore
from omnifed_client.trials import WIDEST, standard_error

SPEC = TrainSpec(steps=8, batch_size=4, lr=5e-3, precision="fp32", seed=3)


def trial(name: str = "one", **changes: object) -> TrialTask:
    fields = {"arm": "architecture-20", "group": "architecture-20", "student": STUDENT, "train": SPEC, **changes}
    return TrialTask(id=f"c.architecture.squares.{name}", **fields)


def asked(site: SiteExecutor, task: TrialTask, state: State | None = None) -> TrialReply:
    reply, up = site.execute(task, state or {})
    assert isinstance(reply, TrialReply), reply
    assert up == {}
    return reply


def test_a_trial_is_scored_and_only_its_figures_leave(data: SiteData, tmp_path: Path) -> None:  # noqa: F811
    long = SPEC.model_copy(update={"steps": 20})
    reply = asked(SiteExecutor(data, tmp_path), trial(fraction=0.5, train=long))
    assert reply.dice > 0.4
    assert 0 < reply.se < WIDEST
    assert (reply.n, reply.patients, reply.paired) == (3, 3, False)
    assert 0 < reply.step_seconds < reply.seconds
    assert not (tmp_path / "arms").exists()
    assert [path.parent.name for path in tmp_path.rglob("*.sealed")] == ["architecture-20"]


def test_the_same_task_gives_the_same_dice_to_the_bit(data: SiteData, tmp_path: Path) -> None:  # noqa: F811
    one, two = (asked(SiteExecutor(data, tmp_path / name), trial()) for name in "ab")
    assert (one.dice, one.se) == (two.dice, two.se)
    other = asked(SiteExecutor(data, tmp_path / "a"), trial("two", train=SPEC.model_copy(update={"seed": 4})))
    assert other.dice != one.dice


def test_a_trial_that_was_done_is_answered_from_the_store_and_ids_never_collide(
    data: SiteData,  # noqa: F811
    tmp_path: Path,
) -> None:
    quick = TRAIN.model_copy(update={"steps": 1})
    first = asked(SiteExecutor(data, tmp_path), trial("one", train=quick))
    assert asked(SiteExecutor(data, tmp_path), trial("one", train=quick)) == first
    second = asked(SiteExecutor(data, tmp_path), trial("two", train=quick))
    assert (second.id, second.dice) == ("c.architecture.squares.two", first.dice)
    assert len(list((tmp_path / "replies" / "architecture-20").iterdir())) == 2


def test_a_validating_fit_is_scored_at_its_end_too(data: SiteData, tmp_path: Path) -> None:  # noqa: F811
    often = SPEC.model_copy(update={"validate_every": 1, "patience": 1})
    plain = asked(SiteExecutor(data, tmp_path), trial("one"))
    assert asked(SiteExecutor(data, tmp_path), trial("two", train=often)).dice == plain.dice


def test_other_trials_are_compared_with_the_anchor_case_by_case(data: SiteData, tmp_path: Path) -> None:  # noqa: F811
    site = SiteExecutor(data, tmp_path)
    anchor = asked(site, trial("anchor", anchor=True))
    same = asked(site, trial("same"))
    assert (anchor.paired, same.paired) == (False, True)
    assert (same.dice, same.se) == (anchor.dice, 0.0)  # no case differs
    other = asked(site, trial("other", train=SPEC.model_copy(update={"seed": 5})))
    kept = SiteStore(tmp_path).load_anchor("architecture-20", "architecture-20", data.val.ids)
    assert kept is not None
    assert kept.mean() == pytest.approx(anchor.dice, abs=1e-12)
    assert other.paired
    assert other.se > 0
    # Another group, and another site's cases, know nothing of it.
    assert not asked(site, trial("group", group="other")).paired
    moved = replace(data, val=replace(data.val, ids=("x", "y", "z")))
    assert not asked(SiteExecutor(moved, tmp_path), trial("moved")).paired


def test_a_damaged_anchor_only_costs_the_comparison(data: SiteData, tmp_path: Path) -> None:  # noqa: F811
    site = SiteExecutor(data, tmp_path)
    asked(site, trial("anchor", anchor=True))
    next(tmp_path.rglob("anchor-*")).write_bytes(b"damaged")
    assert not asked(site, trial("other")).paired


def test_a_slice_of_a_shared_network_is_what_a_trial_starts_from(data: SiteData, tmp_path: Path) -> None:  # noqa: F811
    large = STUDENT.model_copy(update={"beta": 1.0})
    shared = to_state(build_student(large, data.config.spec, seed=9))
    part = take(shared, slice_map(large, STUDENT, data.config.spec))
    still = SPEC.model_copy(update={"steps": 1, "lr": 1e-12, "weight_decay": 0.0})
    site = SiteExecutor(data, tmp_path)
    zeros = {key: np.zeros_like(value) for key, value in part.items()}
    assert asked(site, trial("zeros", train=still), zeros).dice == 0.0  # zero logits: background everywhere
    some = {key: value for key, value in part.items() if not key.startswith(("head", "stem"))}
    assert asked(site, trial("some", train=still), some).n == 3
    reply, _ = site.execute(trial("large", train=still), shared)
    assert isinstance(reply, FailedReply)
    assert reply.code == "OF318"


def test_a_distilling_trial_needs_a_teacher_and_reports_its_scales(data: SiteData, tmp_path: Path) -> None:  # noqa: F811
    teacher = TeacherSpec(kind="cnn", train=TRAIN.model_copy(update={"steps": 2}), views=1)
    task = trial(teacher=teacher, distill=DistillSpec(calibration_steps=2), train=TRAIN)
    site = SiteExecutor(data, tmp_path)
    reply, _ = site.execute(task, {})
    assert isinstance(reply, FailedReply)
    assert reply.code == "OF510"
    site.execute(TeachTask(id="teach", teacher=teacher), {})
    reply = asked(site, task)
    assert set(reply.scales) == {"logits", "features", "attention", "relation", "context"}
    fixed = DistillSpec(scales=reply.scales)  # type: ignore[arg-type]
    again = asked(site, task.model_copy(update={"id": "fixed", "distill": fixed}))
    assert again.scales == pytest.approx(reply.scales)


def test_trials_follow_each_other_at_two_sites_of_a_federation(data: SiteData, tmp_path: Path) -> None:  # noqa: F811
    def executor_of(name: str) -> SiteExecutor:
        own = replace(data, config=data.config.model_copy(update={"name": name}))
        return SiteExecutor(own, tmp_path / name)

    still = SPEC.model_copy(update={"steps": 1})
    rest = [trial(str(i), train=still) for i in range(3)]
    pool = TaskPool(InProcessGrid(client_app(executor_of), ["a", "b"]))
    begin: dict[str, tuple[Task, State]] = {site: (trial("anchor", train=still, anchor=True), {}) for site in "ab"}
    more = pool.run(begin, more=lambda arrival: {arrival.site: (rest.pop(), {})} if rest else {})
    seen = [(arrival.site, arrival.reply.id.rpartition(".")[2], arrival.reply.paired) for arrival in more]  # type: ignore[union-attr]
    assert seen == [
        ("a", "anchor", False),
        ("b", "anchor", False),
        ("a", "2", True),
        ("b", "1", True),
        ("a", "0", True),
    ]


def test_without_validation_cases_nothing_is_scored(data: SiteData, tmp_path: Path) -> None:  # noqa: F811
    nothing = data.val.masks * 0
    for i, val in enumerate([squares(0, 2), squares(3, 2, labelled=0), replace(data.val, masks=nothing)]):
        still = SPEC.model_copy(update={"steps": 1, "lr": 1e-12, "weight_decay": 0.0})
        zeros = {k: np.zeros_like(v) for k, v in to_state(build_student(STUDENT, data.config.spec)).items()}
        reply, _ = SiteExecutor(replace(data, val=val), tmp_path / str(i)).execute(trial(train=still), zeros)
        assert isinstance(reply, FailedReply)
        assert reply.code == "OF760"
    assert IGNORE not in nothing


def test_replies_of_trials_do_not_pile_up(data: SiteData, tmp_path: Path) -> None:  # noqa: F811
    store = SiteStore(tmp_path)
    for i in range(KEPT_TRIALS + 3):
        task = trial(str(i))
        reply = TrialReply(id=task.id, site="squares", dice=0.5, se=0.1, n=3, patients=1, step_seconds=0.1)
        store.finish(task, reply, {})
    assert len(list((tmp_path / "replies" / "architecture-20").iterdir())) == KEPT_TRIALS
    assert [store.is_finished(trial(str(i))) for i in (0, 1, 2, 3, KEPT_TRIALS + 2)] == [False] * 3 + [True] * 2


def test_the_standard_error_is_between_patients_where_there_are_three() -> None:
    values = np.array([0.2, 0.4, 0.6, 0.6, 0.9])
    # Means by patient 0.3, 0.6, 0.9: s = 0.3.
    assert standard_error(values, ["a", "a", "b", "b", "c"]) == pytest.approx(0.3 / math.sqrt(3))
    # Two patients: the four cases, s^2 = 0.11 / 3.
    assert standard_error(values[:4], ["a", "a", "b", "b"]) == pytest.approx(math.sqrt(0.11 / 3 / 4))
    assert standard_error(values[:1], ["a"]) == WIDEST


@given(st.lists(st.tuples(st.floats(0, 1), st.sampled_from("abcde")), min_size=1, max_size=20), st.randoms())
def test_the_standard_error_knows_no_order_and_is_bounded(cases: list[tuple[float, str]], random) -> None:
    def of(pairs: list[tuple[float, str]]) -> float:
        return standard_error(np.array([value for value, _ in pairs]), [patient for _, patient in pairs])

    mixed = cases.copy()
    random.shuffle(mixed)
    assert of(mixed) == pytest.approx(of(cases), abs=1e-12)
    assert 0 <= of(cases) <= WIDEST + 1e-9
