"""Rounds of differentially private training at a site: what is refused, booked, sent, and when it ends."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_executor import SITE, squares

from omnifed.data.prepare import SiteData
from omnifed.distill.spec import DistillSpec
from omnifed.federation.replies import FailedReply, FitReply
from omnifed.federation.tasks import FitTask
from omnifed.models.spec import StudentSpec
from omnifed.privacy.dp.accounting import epsilon, noise_multiplier
from omnifed.privacy.dp.ledger import FOLDER, Cost, Ledger
from omnifed.privacy.spec import DPSpec, PrivacySpec
from omnifed.states import State
from omnifed.teachers.spec import TeacherSpec
from omnifed.training.spec import TrainSpec
from omnifed_client.executor import SiteExecutor

STUDENT = StudentSpec(alpha=0.6, beta=0.5, stem_stride=2, norm="group")
TRAIN = TrainSpec(steps=2, total_steps=6, batch_size=12, lr=1e-3, precision="fp32", seed=3)
DP = DPSpec(epsilon=4.0)


@pytest.fixture(scope="module")
def data() -> SiteData:
    return SiteData(SITE, squares(12, 1), squares(2, 2), squares(2, 4), (), ())


def fit_task(round_: int = 0, *, dp: DPSpec | None = DP, train: TrainSpec = TRAIN, **changes: object) -> FitTask:
    fields = {"campaign": "one", "arm": "fedavg", "student": STUDENT, **changes}
    spec = train.model_copy(update={"first_step": 2 * round_})
    return FitTask(id=f"t.fit.{round_}", round=round_, train=spec, privacy=PrivacySpec(dp=dp), **fields)


def trained(site: SiteExecutor, task: FitTask) -> tuple[FitReply, State]:
    reply, up = site.execute(task, {})
    assert isinstance(reply, FitReply), reply
    return reply, up


def refused(site: SiteExecutor, task: FitTask) -> str:
    before = ledger_of(site).releases
    reply, up = site.execute(task, {})
    assert isinstance(reply, FailedReply), reply
    assert (up, ledger_of(site).releases) == ({}, before)
    return reply.code


def ledger_of(site: SiteExecutor) -> Ledger:
    return Ledger(site.store.folder / FOLDER)


def test_an_arm_trains_all_its_rounds_and_not_one_more(data: SiteData, tmp_path: Path) -> None:
    site = SiteExecutor(data, tmp_path)
    for round_ in range(3):
        reply, up = trained(site, fit_task(round_))
        assert (reply.n, reply.steps, reply.loss, reply.scales) == (12, 2, {}, {})
        assert up
    releases = ledger_of(site).releases
    assert [(r.round, r.steps, r.count, r.rate) for r in releases] == [
        (0, 2, 12, 1.0),
        (1, 2, 12, 1.0),
        (2, 2, 12, 1.0),
    ]
    assert len({r.sigma for r in releases}) == 1
    assert 3.98 <= epsilon(releases, 12**-1.1) <= 4.0
    assert refused(site, fit_task(3)) == "OF852"
    assert not list(tmp_path.rglob("*.release"))


def test_a_finished_task_is_answered_again_without_a_second_booking(data: SiteData, tmp_path: Path) -> None:
    site = SiteExecutor(data, tmp_path)
    first, up = trained(site, fit_task())
    again, same = trained(SiteExecutor(data, tmp_path), fit_task())
    assert first == again
    assert all(np.array_equal(up[key], same[key]) for key in up)
    assert len(ledger_of(site).releases) == 1


def test_two_sites_of_equal_data_draw_other_noise(data: SiteData, tmp_path: Path) -> None:
    ups = [trained(SiteExecutor(data, tmp_path / name), fit_task())[1] for name in "ab"]
    assert not any(np.array_equal(ups[0][key], ups[1][key]) for key in ups[0])


class Stop(BaseException):
    """Ends a task at once, as a killed process would."""


def stop_once(at: int) -> Iterator[None]:
    while True:
        at -= 1
        if not at:
            raise Stop
        yield


def test_a_killed_round_goes_on_booked_once_with_the_same_noise(data: SiteData, tmp_path: Path) -> None:
    steps = stop_once(2)
    with pytest.raises(Stop):
        SiteExecutor(data, tmp_path, progress=lambda *about: next(steps)).execute(fit_task(), {})
    (key,) = tmp_path.rglob("*.release")
    sealed = key.read_bytes()
    site = SiteExecutor(data, tmp_path)
    begun = ledger_of(site).releases
    assert len(begun) == 1
    assert json.dumps(begun[0].id).encode() not in sealed
    _, up = trained(site, fit_task())
    assert ledger_of(site).releases == begun
    assert not key.exists()
    # The noise of an undisturbed round with that key.
    other = SiteExecutor(data, tmp_path / "other")
    steps = stop_once(1)
    with pytest.raises(Stop):
        SiteExecutor(data, tmp_path / "other", progress=lambda *about: next(steps)).execute(fit_task(), {})
    (tmp_path / "other" / "identity" / "vault.key").write_bytes((tmp_path / "identity" / "vault.key").read_bytes())
    (tmp_path / "other" / "privacy" / "ledger.json").write_bytes((tmp_path / "privacy" / "ledger.json").read_bytes())
    next((tmp_path / "other").rglob("*.release")).write_bytes(sealed)
    _, same = trained(other, fit_task())
    assert all(np.array_equal(up[key], same[key]) for key in up)


def test_another_round_that_was_begun_never_lends_its_noise(data: SiteData, tmp_path: Path) -> None:
    steps = stop_once(1)
    with pytest.raises(Stop):
        SiteExecutor(data, tmp_path, progress=lambda *about: next(steps)).execute(fit_task(), {})
    site = SiteExecutor(data, tmp_path)
    trained(site, fit_task(train=TRAIN.model_copy(update={"lr": 2e-3})))
    assert [r.round for r in ledger_of(site).releases] == [0, 0]


def test_all_campaigns_together_stay_below_the_policy(data: SiteData, tmp_path: Path) -> None:
    short = TRAIN.model_copy(update={"total_steps": 2})
    site = SiteExecutor(data, tmp_path, epsilon_limit=5.0)
    trained(site, fit_task(train=short))
    assert refused(site, fit_task(train=short, campaign="two")) == "OF852"
    # Where the policy is the stricter of the two, the noise is made for it; a smaller request still fits.
    assert refused(SiteExecutor(data, tmp_path, epsilon_limit=3.0), fit_task(train=short, campaign="two")) == "OF852"
    trained(site, fit_task(train=short, campaign="two", dp=DPSpec(epsilon=1.0)))
    both = ledger_of(site).releases
    assert [r.campaign for r in both] == ["one", "two"]
    assert 4.0 < epsilon(both, 12**-1.1) <= 5.0
    strict = SiteExecutor(data, tmp_path / "strict", epsilon_limit=1.0)
    trained(strict, fit_task(train=short))
    assert 0.98 <= epsilon(ledger_of(strict).releases, 12**-1.1) <= 1.0


def test_an_arm_that_could_not_end_is_refused_before_it_spends_anything(data: SiteData, tmp_path: Path) -> None:
    short = TRAIN.model_copy(update={"total_steps": 2})
    site = SiteExecutor(data, tmp_path, epsilon_limit=5.2)
    trained(site, fit_task(train=short))
    # Its first round alone would fit.
    spent = [*ledger_of(site).releases, Cost(sigma=noise_multiplier(4.0, 12**-1.1, rate=1.0, steps=6), rate=1, steps=2)]
    assert epsilon(spent, 12**-1.1) < 5.2
    assert refused(site, fit_task(campaign="two")) == "OF852"


def test_without_a_policy_campaigns_count_by_themselves(data: SiteData, tmp_path: Path) -> None:
    short = TRAIN.model_copy(update={"total_steps": 2})
    site = SiteExecutor(data, tmp_path)
    for campaign in ("one", "two"):
        trained(site, fit_task(train=short, campaign=campaign))
    assert epsilon(ledger_of(site).releases, 12**-1.1) > 4.0


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"student": StudentSpec(alpha=0.6, beta=0.5, stem_stride=2)}, "OF850"),
        ({"distill": DistillSpec(), "teacher": TeacherSpec()}, "OF850"),
        ({"dp": DPSpec(delta=0.09)}, "OF851"),
    ],
    ids=["batch norm", "teacher", "delta"],
)
def test_what_voids_the_promise_is_refused(
    data: SiteData, tmp_path: Path, changes: dict[str, object], code: str
) -> None:
    assert refused(SiteExecutor(data, tmp_path), fit_task(**changes)) == code


def test_too_few_patients_or_one_in_two_splits_are_refused(data: SiteData, tmp_path: Path) -> None:
    few = replace(data, train=squares(8, 1))
    assert refused(SiteExecutor(few, tmp_path / "few"), fit_task()) == "OF851"
    torn = replace(data, val=replace(data.val, patients=(data.train.patients[0], "other")))
    assert refused(SiteExecutor(torn, tmp_path / "torn"), fit_task()) == "OF851"


def test_an_arm_that_began_without_privacy_never_becomes_private(data: SiteData, tmp_path: Path) -> None:
    site = SiteExecutor(data, tmp_path)
    trained(site, fit_task(dp=None))
    assert refused(site, fit_task(1)) == "OF855"
    trained(site, fit_task(1, arm="fedbn"))


def test_a_damaged_ledger_stops_training(data: SiteData, tmp_path: Path) -> None:
    site = SiteExecutor(data, tmp_path)
    (tmp_path / "privacy").mkdir(parents=True)
    (tmp_path / "privacy" / "ledger.json").write_text("{")
    reply, _ = site.execute(fit_task(), {})
    assert isinstance(reply, FailedReply)
    assert reply.code == "OF854"
