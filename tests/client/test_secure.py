"""The site's side of private rounds on disk: what it refuses, what it keeps, and what a restart finds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from test_executor import SITE, STUDENT, TRAIN, squares

from omnifed.data.prepare import SiteData
from omnifed.federation.replies import FailedReply, FitReply, MaskedReply, SharesReply, UnmaskReply
from omnifed.federation.tasks import FitTask, MaskedTask, SharesTask, UnmaskTask
from omnifed.models.registry import build_student
from omnifed.models.weights import to_state
from omnifed.privacy.secagg.collect import inbox_of, survivors_of, unmask
from omnifed.privacy.secagg.fixed import Layout
from omnifed.privacy.secagg.keys import Parties, Session
from omnifed.privacy.secagg.records import Revealed, Shared
from omnifed.privacy.spec import PrivacySpec
from omnifed.states import State
from omnifed.trust.authority import admit, found
from omnifed.trust.enrolment import enrol, join
from omnifed_client.executor import SiteExecutor

NAMES = ("ash", "elm", "oak")
PRIVACY = PrivacySpec(mode="private", threshold=3, sites=NAMES, clip=50.0, weighting="equal")
WEIGHTS = to_state(build_student(STUDENT, SITE.spec, seed=5))


class Three:
    """Three sites that train for real, and their coordinator."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.coordinator = found(folder / "coordinator", "test", "127.0.0.1:8000")
        self.identities = {}
        for name in NAMES:
            own = folder / name / "identity"
            self.identities[name] = join(own, admit(folder / "coordinator", enrol(own, name)))
        for identity in self.identities.values():
            identity.accept(self.coordinator.signed_roster())

    def ask(self, site: str, task, state: State | None = None):
        """A process of its own for each task: nothing but the disk connects them."""
        config = SITE.model_copy(update={"name": site})
        number = 10 * NAMES.index(site)
        data = SiteData(config, squares(4, number + 1), squares(2, number + 2), squares(2, number + 3), (), ())
        executor = SiteExecutor(data, self.folder / site, identity=self.identities[site])
        return executor.execute(task, state or {})

    def fit(self, site: str, round_: int = 0, attempt: int = 0, state: State | None = WEIGHTS, **changes):
        return self.ask(site, task(site, round_, attempt, **changes), state)

    def session(self, round_: int = 0, attempt: int = 0) -> Session:
        return Session(federation="test", campaign="c", arm="a", round=round_, attempt=attempt)


def task(site: str, round_: int = 0, attempt: int = 0, **changes) -> FitTask:
    values = {"campaign": "c", "arm": "a", "round": round_, "student": STUDENT, "train": TRAIN, "privacy": PRIVACY}
    return FitTask.model_validate({"id": f"{site}.{round_}.{attempt}", "attempt": attempt, **values, **changes})


def head(site: str, kind: str, round_: int = 0, attempt: int = 0) -> dict:
    return {"id": f"{site}.{kind}.{round_}.{attempt}", "campaign": "c", "arm": "a", "round": round_, "attempt": attempt}


@pytest.fixture
def three(tmp_path: Path) -> Three:
    return Three(tmp_path)


def code(answer) -> str:
    reply, state = answer
    assert state == {}
    return reply.code if isinstance(reply, FailedReply) else ""


def keys_of(three: Three, attempt: int = 0) -> tuple:
    replies = [three.fit(site, attempt=attempt)[0] for site in NAMES]
    assert all(isinstance(reply, FitReply) and reply.keys for reply in replies)
    return tuple(reply.keys for reply in replies)


def exchanges(three: Three) -> dict:
    """A whole round; all that was sent."""
    keys = keys_of(three)
    parties = Parties.read(keys, three.session())
    sent = {"keys": keys, "parties": parties, "shared": {}, "masked": {}, "receipts": {}, "revealed": {}, "tasks": {}}
    for site in NAMES:
        reply, _ = three.ask(site, SharesTask(**head(site, "shares"), keys=keys))
        assert isinstance(reply, SharesReply)
        sent["shared"][site] = Shared(sealed=reply.sealed, commitment=reply.commitment, digests=reply.digests)
    for site in NAMES:
        reply, state = three.ask(site, MaskedTask(**head(site, "masked"), inbox=inbox_of(site, sent["shared"])))
        assert isinstance(reply, MaskedReply)
        sent["masked"][site], sent["receipts"][site] = state["masked"], reply.receipt
    listed = survivors_of(parties, NAMES, three.coordinator.key)
    receipts = tuple(sent["receipts"][site] for site in NAMES)
    for site in NAMES:
        ask = sent["tasks"][site] = UnmaskTask(**head(site, "unmask"), survivors=listed, receipts=receipts)
        reply, _ = three.ask(site, ask)
        assert isinstance(reply, UnmaskReply)
        sent["revealed"][site] = Revealed(seeds=reply.seeds, keys=reply.keys)
    return sent


def test_three_real_trainings_add_up_to_their_plain_mean(three: Three, tmp_path: Path) -> None:
    sent = exchanges(three)
    layout = Layout(WEIGHTS, 3, 50.0)
    total = sum(sent["masked"].values(), np.zeros(layout.size, np.uint32))
    unmask(total, sent["parties"], 3, sent["shared"], NAMES, sent["revealed"])
    sums = layout.decode(total)
    assert layout.plausible(sums, 3)
    found_ = layout.apply(sums)

    plain = Three(tmp_path / "plain")
    replies = [plain.fit(site, privacy=PrivacySpec()) for site in NAMES]
    for key, held in WEIGHTS.items():
        if held.dtype.kind == "f":
            mean = sum(state[key].astype(np.float64) for _, state in replies) / 3
            np.testing.assert_allclose(found_[key], mean, atol=1e-6, rtol=2e-7)
        else:
            np.testing.assert_array_equal(found_[key], held)
    assert sums.figures["dice"] == pytest.approx(np.mean([reply.dice for reply, _ in replies]), abs=1e-5)
    for name, value in replies[0][0].loss.items():
        assert sums.figures[f"loss/{name}"] == pytest.approx(np.mean([r.loss[name] for r, _ in replies]), abs=1e-4)
        assert value > 0


def test_secrets_lie_sealed_and_go_with_the_round(three: Three) -> None:
    keys_of(three)
    private = three.folder / "ash" / "campaigns" / "c" / "arms" / "a" / "private"
    sealed = (private / "session-0000.sealed").read_bytes()
    assert sealed.startswith(b"OFV1")
    assert b"seed" not in sealed
    assert {path.stat().st_mode & 0o777 for path in private.iterdir()} == {0o600}
    exchanges(three)
    assert [path.name for path in private.iterdir()] == ["revealed.json"]


def test_a_damaged_session_sits_the_round_out(three: Three) -> None:
    keys = keys_of(three)
    file = three.folder / "ash" / "campaigns" / "c" / "arms" / "a" / "private" / "session-0000.sealed"
    data = bytearray(file.read_bytes())
    data[40] ^= 1
    file.write_bytes(bytes(data))
    assert code(three.ask("ash", SharesTask(**head("ash", "shares"), keys=keys))) == "OF875"
    assert code(three.fit("ash", id="once.more")) == "OF875"
    assert three.fit("ash", round_=1)[0].keys is not None


def test_what_a_new_round_begins_the_old_one_loses(three: Three) -> None:
    keys_of(three)
    three.fit("ash", round_=1)
    private = three.folder / "ash" / "campaigns" / "c" / "arms" / "a" / "private"
    assert {path.name for path in private.iterdir()} == {"session-0001.sealed", "update-0001.sealed"}


def test_the_same_request_again_gets_the_same_answer_another_is_refused(three: Three) -> None:
    keys = keys_of(three)
    ask = SharesTask(**head("ash", "shares"), keys=keys)
    first = three.ask("ash", ask)[0]
    assert three.ask("ash", ask)[0] == first
    # Another id, the same request: a site that lost its stored replies, not its session.
    renamed = ask.model_copy(update={"id": "other"})
    assert three.ask("ash", renamed)[0].sealed == first.sealed
    assert code(three.ask("ash", ask.model_copy(update={"keys": keys[::-1]}))) == "OF842"
    assert code(three.ask("ash", MaskedTask(**head("ash", "masked"), inbox={}))) == "OF843"


def test_a_second_attempt_has_other_keys_and_no_second_training(three: Three, monkeypatch) -> None:
    from omnifed_client import student

    first = three.fit("ash")[0]
    monkeypatch.setattr(student, "fit_round", None)
    second = three.fit("ash", attempt=1, state={})[0]
    assert second.keys.body != first.keys.body
    # The first attempt is over: neither its keys nor its exchanges.
    assert code(three.ask("ash", SharesTask(**head("ash", "shares"), keys=(first.keys,)))) == "OF842"
    assert code(three.fit("ash", train=TRAIN.model_copy(update={"lr": 0.5}))) == "OF842"


@pytest.mark.parametrize(
    "changes",
    [
        {"privacy": PRIVACY.model_copy(update={"threshold": 2})},
        {"privacy": PRIVACY.model_copy(update={"sites": ("ash", "elm", "oak", "yew")})},
        {"privacy": PRIVACY.model_copy(update={"clip": 1.0})},
        {"privacy": PRIVACY.model_copy(update={"weighting": "n"})},
        {"train": TRAIN.model_copy(update={"lr": 0.5})},
    ],
    ids=["threshold", "sites", "clip", "weighting", "training"],
)
def test_a_second_attempt_that_contradicts_the_first_is_refused(three: Three, changes) -> None:
    three.fit("ash")
    assert code(three.fit("ash", attempt=1, **changes)) == "OF842"


@pytest.mark.parametrize(
    ("changes", "number"),
    [
        ({"privacy": PRIVACY.model_copy(update={"threshold": 2})}, "OF842"),
        ({"privacy": PRIVACY.model_copy(update={"sites": ("elm", "oak", "yew")})}, "OF842"),
        ({"privacy": PRIVACY.model_copy(update={"sites": ("ash", "ash", "oak")})}, "OF842"),
        ({"upload": "all"}, "OF848"),
        ({"wire": "bf16"}, "OF848"),
    ],
    ids=["threshold", "not asked", "twice", "upload", "wire"],
)
def test_a_fit_that_no_site_may_serve(three: Three, changes, number) -> None:
    assert code(three.fit("ash", **changes)) == number


def test_a_later_attempt_at_a_site_that_never_began(three: Three) -> None:
    assert code(three.fit("ash", attempt=1, state={})) == "OF842"
    assert code(three.fit("ash", attempt=1)) == ""


def test_a_revealed_round_is_over(three: Three) -> None:
    sent = exchanges(three)
    again = three.ask("ash", sent["tasks"]["ash"])[0]
    assert Revealed(seeds=again.seeds, keys=again.keys) == sent["revealed"]["ash"]
    assert code(three.fit("ash", attempt=1)) == "OF845"
    other = survivors_of(sent["parties"], NAMES[:2], three.coordinator.key)
    ask = sent["tasks"]["ash"].model_copy(update={"survivors": other})
    assert code(three.ask("ash", ask)) == "OF842"
    assert three.fit("ash", round_=1)[0].keys is not None
    assert code(three.fit("ash", round_=0, attempt=2)) == "OF845"


def test_no_identity_no_private_round(three: Three) -> None:
    three.identities = dict.fromkeys(NAMES)
    assert code(three.fit("ash")) == "OF840"
    assert code(three.ask("ash", MaskedTask(**head("ash", "masked"), inbox={}))) == "OF840"


def test_another_roster_or_coordinator_is_not_believed(three: Three, tmp_path: Path) -> None:
    keys = keys_of(three)
    stranger = Three(tmp_path / "stranger")
    theirs = tuple(stranger.fit(site)[0].keys for site in NAMES[1:])
    assert code(three.ask("ash", SharesTask(**head("ash", "shares"), keys=(keys[0], *theirs)))) == "OF841"
