"""The stricter of request and policy holds, each rule for itself, and the audit log tells it."""

from __future__ import annotations

import sys
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pytest

from omnifed.errors import OmniFedError
from omnifed.evaluation.score import Score
from omnifed.federation.replies import EvaluateReply, ExportReply, FailedReply, FitReply, HelloReply
from omnifed.federation.tasks import (
    BenchTask,
    EvaluateTask,
    ExportTask,
    FitTask,
    HelloTask,
    MaskedTask,
    TeachTask,
    TrialTask,
    UnmaskTask,
)
from omnifed.models.spec import StudentSpec
from omnifed.privacy.dp.ledger import Ledger
from omnifed.privacy.spec import DPSpec, PrivacySpec
from omnifed.training.spec import TrainSpec
from omnifed.trust.audit import AuditLog
from omnifed.trust.authority import admit
from omnifed.trust.enrolment import join, renew
from omnifed.trust.identity import SiteIdentity
from omnifed.trust.policy import FILE, SIGNATURE, Policy, read_policy, sign_policy
from omnifed.trust.signing import Signed, fingerprint
from omnifed_client.config import ClientConfig
from omnifed_client.guarded import SERVED, GuardedExecutor, guarded, policy_of
from omnifed_client.permission import narrow
from omnifed_client.store import SiteStore

sys.path.insert(0, str(Path(__file__).parents[1] / "trust"))
from made import Made, federation_of

TODAY = date(2026, 3, 1)
SPEC, TRAIN = StudentSpec(), TrainSpec()
SIX = tuple("abcdef")


def policy(**fields: object) -> Policy:
    return Policy.model_validate({"expires": date.today() + timedelta(days=9), **fields})


def fit(name: str = "t", round_: int = 0, campaign: str = "c", **fields) -> FitTask:
    return FitTask(id=name, campaign=campaign, round=round_, student=SPEC, train=TRAIN, **fields)


def private(sites: int = 6, threshold: int = 4, **fields: object) -> PrivacySpec:
    return PrivacySpec.model_validate({"mode": "private", "threshold": threshold, "sites": SIX[:sites], **fields})


def refused(task, rules: Policy, roster=None) -> str:
    with pytest.raises(OmniFedError) as caught:
        narrow(task, rules, roster)
    # What leaves the site names no value of the task or of the policy.
    assert not any(word in caught.value.rule for word in ("marketing", "audit", "4", "mean"))
    return caught.value.code


EVALUATE = EvaluateTask(id="e", student=SPEC)
EXPORT = ExportTask(id="x", student=SPEC)
TRIAL = TrialTask(id="s", student=SPEC, train=TRAIN)
BENCH = BenchTask(id="b", students=(SPEC,))
TEACH = TeachTask(id="t")


@pytest.mark.parametrize("task", [fit(), EVALUATE, EXPORT, TRIAL, BENCH, TEACH])
def test_the_first_policy_serves_a_usual_campaign_unchanged(task) -> None:
    assert narrow(task, policy(), None) is task


@pytest.mark.parametrize("task", [fit(), EVALUATE, EXPORT, TRIAL, BENCH, TEACH])
def test_kinds_and_purposes_that_are_not_listed_are_refused(task) -> None:
    kinds = {"fit", "evaluate", "export", "trial", "bench", "teach"}
    assert narrow(task, policy(tasks=[task.kind]), None) is task
    assert refused(task, policy(tasks=sorted(kinds - {task.kind}))) == "OF822"
    assert refused(task.model_copy(update={"purpose": "marketing"}), policy()) == "OF822"
    assert narrow(task.model_copy(update={"purpose": "audit"}), policy(purposes=["audit"]), None)


def test_weights_leave_in_listed_modes_only() -> None:
    only_private = policy(modes=["private"])
    assert refused(fit(), only_private) == "OF822"
    assert refused(fit(privacy=PrivacySpec(mode="robust")), only_private) == "OF822"
    assert narrow(fit(privacy=private()), only_private, None)
    assert narrow(fit(upload="none"), only_private, None)  # a site that trains alone sends none
    assert refused(fit(privacy=private()), policy(modes=["mean", "robust"])) == "OF822"
    exchange = MaskedTask(id="m", round=0, inbox={})
    assert narrow(exchange, only_private, None) is exchange
    assert refused(exchange, policy(modes=["mean"])) == "OF822"
    assert refused(exchange, policy(tasks=["evaluate"])) == "OF822"


def test_the_smaller_epsilon_holds() -> None:
    asked = fit(privacy=PrivacySpec(dp=DPSpec(epsilon=4.0, clip=0.5)))
    assert narrow(asked, policy(epsilon=8), None) is asked
    assert narrow(asked, policy(epsilon=0), None) is asked
    narrowed = narrow(asked, policy(epsilon=1.5), None)
    assert isinstance(narrowed, FitTask)
    assert narrowed.privacy.dp == DPSpec(epsilon=1.5, clip=0.5)
    assert narrowed.model_copy(update={"privacy": asked.privacy}) == asked


def test_a_site_may_insist_on_differential_privacy() -> None:
    rules = policy(require_dp=True)
    assert refused(fit(), rules) == refused(TRIAL, rules) == "OF825"
    assert narrow(fit(privacy=PrivacySpec(dp=DPSpec())), rules, None)
    assert narrow(TEACH, rules, None) is TEACH


@pytest.mark.parametrize(
    ("rules", "asked", "code"),
    [
        ({"min_sites": 6}, private(), ""),
        ({"min_sites": 7}, private(), "OF824"),
        ({}, private(2, 2), "OF824"),
        ({}, private(6, 4), ""),
        ({}, private(6, 3), "OF824"),  # two thirds of six are four
        ({"min_threshold": 3}, private(6, 3), "OF824"),
        ({"min_threshold": 3}, private(6, 4), ""),
        ({"min_threshold": 5}, private(6, 4), "OF824"),
        ({"min_threshold": 5}, private(6, 5), ""),
    ],
)
def test_a_private_round_is_never_smaller_than_the_policy_says(rules: dict, asked: PrivacySpec, code: str) -> None:
    task = fit(privacy=asked)
    if code:
        assert refused(task, policy(**rules)) == code
    else:
        assert narrow(task, policy(**rules), None) is task


def test_partners_must_be_there_with_their_keys(tmp_path: Path) -> None:
    made = federation_of(tmp_path, ["a", "b", "c"])
    roster = made.coordinator.roster()
    mark = fingerprint(made.sites["b"].key.public)
    task = fit(privacy=PrivacySpec(mode="private", threshold=3, sites=("a", "b", "c")))
    for written in (mark, mark.replace(" ", "")):
        assert narrow(task, policy(partners={"b": written}), roster) is task
    assert refused(task, policy(partners={"b": fingerprint(made.sites["c"].key.public)}), roster) == "OF824"
    assert refused(task, policy(partners={"d": mark}), roster) == "OF824"
    assert refused(task, policy(partners={"b": mark})) == "OF824"  # nobody knows its key without a roster
    without = fit(privacy=PrivacySpec(mode="private", threshold=3, sites=("a", "c", "d")))
    assert refused(without, policy(partners={"b": mark}), roster) == "OF824"
    assert narrow(fit(), policy(partners={"d": mark}), roster)
    assert refused(task, policy(partners={"b": mark}), made.revoke("b")) == "OF824"


class Inner:
    """Answers as a site with three test cases would."""

    def __init__(self) -> None:
        self.seen: list = []

    def execute(self, task, state):
        self.seen.append(task)
        about = {"id": task.id, "site": "a"}
        if isinstance(task, HelloTask):
            return HelloReply(
                **about, version="0", channels=1, classes=2, labels=("x", "y"), modality="ct", image_size=(32, 32),
                train=50, val=3, test=3,
            ), {}  # fmt: skip
        if isinstance(task, EvaluateTask):
            scores = (Score(metric="dice", label="y", mean=0.7, ci_low=0.5, ci_high=0.9, n=3),)
            return EvaluateReply(**about, n=3, scores=scores), {}
        if isinstance(task, ExportTask):
            return ExportReply(**about, bytes=5, max_delta=0.0, sha256="ab" * 32), {}
        if task.id == "broken":
            return FailedReply(**about, code="OF511", rule="The task must fit into the site's memory."), {}
        return FitReply(**about, n=50, steps=1, loss={}, dice=0.5, adopted=True), {"w": np.zeros(2, np.float32)}


class Site:
    """A site of a federation, its policy as given."""

    def __init__(self, made: Made, rules: Policy) -> None:
        self.inner, self.store = Inner(), SiteStore(made.state("a"))
        self.log = AuditLog.of(made.state("a"), made.sites["a"])
        folder = made.sites["a"].folder
        (folder / FILE).write_text(f"expires = {rules.expires}")
        self.executor = GuardedExecutor(self.inner, rules, made.sites["a"], self.log, self.store, "a")

    def code(self, task) -> str:
        reply, state = self.executor.execute(task, {})
        assert state == {} or reply.kind == "fit"
        assert (reply.site, reply.id) == ("a", task.id)
        return reply.code if isinstance(reply, FailedReply) else ""

    def told(self) -> list[tuple[str, ...]]:
        return [(e.what, str(e.fields.get("task", "")), str(e.fields.get("code", ""))) for e in self.log.entries(99)]


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return federation_of(tmp_path, ["a"])


def test_trainings_and_campaigns_are_counted_on_disk(made: Made) -> None:
    rules = policy(max_rounds=2, max_campaigns=2)
    site = Site(made, rules)
    assert site.code(HelloTask(id="h")) == ""
    assert [site.code(fit("r0", 0)), site.code(fit("r1", 1))] == ["", ""]
    assert site.code(fit("r1-again", 1)) == ""  # the same training
    assert site.code(fit("r2", 2)) == "OF823"
    assert site.code(fit("r1-other", 1, prox_mu=0.5)) == "OF823"
    assert site.code(EVALUATE.model_copy(update={"campaign": "c"})) == ""
    again = Site(made, rules)
    assert again.code(fit("r2", 2)) == "OF823"
    assert again.code(fit("r0", 0, "d")) == ""
    assert again.code(EVALUATE.model_copy(update={"campaign": "e"})) == "OF823"
    assert again.code(HelloTask(id="h")) == ""
    (made.sites["a"].folder / SERVED).write_text("{")
    assert again.code(fit("r0", 0, "d")) == "OF823"


def test_what_is_refused_is_never_executed_and_all_is_audited(made: Made) -> None:
    site = Site(made, policy(tasks=["fit", "export"]))
    assert site.code(EVALUATE) == "OF822"
    assert site.inner.seen == []
    assert site.code(fit("good")) == ""
    assert site.code(fit("broken", 1)) == "OF511"
    assert site.code(EXPORT) == ""
    signed = Signed(body="{}", key="", signature="")
    assert site.code(UnmaskTask(id="u", round=0, survivors=signed, receipts=())) == ""
    assert site.told() == [
        ("refused", "e", "OF822"),
        ("policy", "", ""),
        ("finished", "good", ""),
        ("failed", "broken", "OF511"),
        ("finished", "x", ""),
        ("exported", "x", ""),
        ("finished", "u", ""),
        ("session", "u", ""),
    ]
    assert site.log.entries(3)[0].fields["sha256"] == "ab" * 32
    assert site.log.verify() is not None


def test_what_was_spent_of_privacy_is_audited_once_also_by_a_task_that_failed(made: Made) -> None:
    site = Site(made, policy())
    private_fit = fit("dp", 0, privacy=PrivacySpec(dp=DPSpec()))
    assert site.code(private_fit) == ""
    book = Ledger(made.state("a") / "privacy")
    about = {"sigma": 1.5, "rate": 0.25, "steps": 7, "campaign": "c", "arm": "main", "delta": 0.01, "clip": 1.0}
    book.book(["p1", "p2"], round=1, **about)
    assert site.code(fit("broken", 1, privacy=PrivacySpec(dp=DPSpec()))) == "OF511"
    book.book(["p1", "p2"], round=2, **about)
    assert site.code(fit("dp2", 2, privacy=PrivacySpec(dp=DPSpec()))) == ""
    assert [what for what, *_ in site.told()] == ["policy", "finished", "epsilon", "failed", "epsilon", "finished"]
    spent = [entry.fields for entry in site.log.entries(99) if entry.what == "epsilon"]
    assert [fields["round"] for fields in spent] == [1, 2]
    assert spent[0] == {
        "campaign": "c", "arm": "main", "round": 1, "sigma": 1.5, "rate": 0.25, "steps": 7, "delta": 0.01
    }  # fmt: skip


def test_a_change_of_the_policy_is_audited(made: Made) -> None:
    site = Site(made, policy())
    site.code(fit("r0"))
    site.code(fit("r1", 1))
    later = Site(made, policy(expires=date.today() + timedelta(days=8)))
    later.code(fit("r2", 2))
    assert [what for what, *_ in later.told()] == ["policy", "finished", "finished", "policy", "finished"]


def test_few_cases_leave_suppressed_and_stay_whole_for_other_policies(made: Made) -> None:
    small, _ = Site(made, policy()).executor.execute(EVALUATE, {})
    assert isinstance(small, EvaluateReply)
    assert small.n == 19
    assert [(score.metric, score.mean) for score in small.scores] == [("suppressed", 20)]
    hello, _ = Site(made, policy()).executor.execute(HelloTask(id="h"), {})
    assert isinstance(hello, HelloReply)
    assert (hello.train, hello.val) == (50, 19)
    whole, _ = Site(made, policy(min_cases=1)).executor.execute(EVALUATE, {})
    assert whole == Inner().execute(EVALUATE, {})[0]


def test_what_cannot_be_audited_is_not_done_or_does_not_leave(made: Made) -> None:
    site = Site(made, policy())
    site.code(fit("r0"))
    log = made.state("a") / "audit" / "log.jsonl"
    log.write_bytes(log.read_bytes()[:-9] + b"x" * 8 + b"\n")
    assert site.code(fit("r1", 1)) == "OF830"
    assert site.code(EVALUATE.model_copy(update={"purpose": "other"})) == "OF830"


def test_a_running_client_stops_when_its_policy_ends(made: Made) -> None:
    site = Site(made, policy(expires=date.today() - timedelta(days=2)))
    assert site.code(HelloTask(id="h")) == site.code(fit()) == "OF821"
    assert site.inner.seen == []


def config(made: Made, **fields: object) -> ClientConfig:
    return ClientConfig.model_validate({"site": "a", "data": ".", "state": made.state("a"), **fields})


def test_a_site_that_never_had_a_policy_gets_one_and_one_that_lost_it_is_refused(made: Made) -> None:
    identity, folder = made.sites["a"], made.sites["a"].folder
    first = policy_of(config(made), identity)
    assert first == Policy(expires=first.expires) if first else False
    (folder / FILE).write_text("expires = 2099-01-01\n")
    with pytest.raises(OmniFedError, match="OF820"):
        policy_of(config(made), identity)
    sign_policy(folder, identity.key)
    assert policy_of(config(made), identity) == Policy(expires=date(2099, 1, 1))
    site = Site(made, policy())
    site.code(fit())
    for name in (FILE, SIGNATURE):
        (folder / name).unlink()
    with pytest.raises(OmniFedError, match="OF820"):
        policy_of(config(made), identity)


def test_a_policy_outlives_a_rotation_of_the_sites_keys(made: Made) -> None:
    folder = made.sites["a"].folder
    first = policy_of(config(made), made.sites["a"])
    join(folder, admit(made.coordinator.folder, renew(folder)))
    renewed = SiteIdentity.load(folder)
    assert policy_of(config(made), renewed) == first
    assert read_policy(folder, {renewed.key.public}) == first  # signed anew: the roster will forget the old key
    with pytest.raises(OmniFedError, match="OF820"):
        read_policy(folder, {made.sites["a"].key.public})


def test_without_identity_nothing_is_forbidden_unless_a_file_says_so(made: Made, tmp_path: Path) -> None:
    plain = config(made, insecure=True, server="127.0.0.1:8000", state=tmp_path / "plain")
    inner = Inner()
    assert policy_of(plain, None) is None
    assert guarded(plain, inner, None, None) is inner
    (tmp_path / "plain" / "identity").mkdir(parents=True)
    (tmp_path / "plain" / "identity" / FILE).write_text("expires = 2099-01-01\nmodes = ['private']\n")
    rules = policy_of(plain, None)
    executor = guarded(plain, inner, rules, None)
    reply, _ = executor.execute(fit(), {})
    assert isinstance(reply, FailedReply)
    assert (reply.code, reply.site) == ("OF822", "a")
    assert executor.execute(fit(upload="none"), {})[0].kind == "fit"
    assert not (tmp_path / "plain" / "audit").exists()
