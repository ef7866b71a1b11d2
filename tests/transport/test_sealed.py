"""Envelopes over a real grid: an honest federation works as without them, and each attack is a miss with a number."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from omnifed.federation.replies import FailedReply, FitReply, HelloReply
from omnifed.federation.tasks import FitTask, HelloTask
from omnifed.models.spec import StudentSpec
from omnifed.training.spec import TrainSpec
from omnifed.transport.apps import client_app
from omnifed.transport.coordinator_seal import CoordinatorSeal
from omnifed.transport.flower_compat import Array, ArrayRecord, ConfigRecord, RecordDict
from omnifed.transport.inprocess import InProcessGrid
from omnifed.transport.pool import TaskPool
from omnifed.transport.records import HEAD, STATE, Packed, pack, to_record
from omnifed.transport.sealed import Posted
from omnifed.transport.site_seal import SiteSeal
from omnifed.trust.audit import AuditLog
from omnifed.trust.audit_entry import Anchor
from omnifed.trust.authority import admit, rotate
from omnifed.trust.enrolment import enrol, join
from omnifed.trust.envelope import Envelope, Numbers
from omnifed.trust.identity import CoordinatorIdentity, SiteIdentity
from omnifed.trust.signing import Signed, SigningKey

sys.path.insert(0, str(Path(__file__).parents[1] / "trust"))
from made import Made, federation_of

STATE_OF_ALL = {"w": np.zeros(3, np.float32), "n": np.array(2)}


class Adder:
    """Adds 1 to everything and counts what it was asked."""

    def __init__(self, site: str) -> None:
        self.site, self.calls = site, 0

    def execute(self, task, state):
        if isinstance(task, HelloTask):
            return HelloReply(
                id=task.id, site=self.site, version="0", channels=1, classes=2, labels=("a", "b"), modality="ct",
                image_size=(32, 32), train=1, val=1, test=1,
            ), {}  # fmt: skip
        self.calls += 1
        reply = FitReply(id=task.id, site=self.site, n=1, steps=1, loss={}, dice=0.5, adopted=True)
        return reply, {key: value + 1 for key, value in state.items()}


class Attacked(InProcessGrid):
    """A grid in the hands of somebody who may change every message on both ways.

    Args:
        down: changes or replaces what comes to a site; gets site and content.
        up: the same for what comes from it.
    """

    def __init__(self, *arguments, down: Callable = lambda site, content: content, up: Callable | None = None) -> None:
        super().__init__(*arguments)
        self.down, self.up = down, up or (lambda site, content: content)
        self.told: list[RecordDict] = []

    def _work(self, message_id, message):
        site = self._contexts[message.metadata.dst_node_id].node_config["site"]
        message.content = self.down(site, message.content)
        reply, seconds = super()._work(message_id, message)
        reply.content = self.up(site, reply.content)
        return reply, seconds


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return federation_of(tmp_path, ["a", "b"])


class Run:
    """The two ends of a federation over an attacked grid."""

    def __init__(self, made: Made, **attacks: Callable) -> None:
        self.made, self.adders = made, {site: Adder(site) for site in made.sites}
        self.anchors: dict[str, Anchor] = {}
        self.seal = CoordinatorSeal(made.coordinator, self.anchors.__setitem__)
        self.app = client_app(
            self.adders.__getitem__,
            lambda site: SiteSeal(made.sites[site], AuditLog.of(made.state(site), made.sites[site])),
        )
        self.grid = Attacked(self.app, list(made.sites), **attacks)
        self.pool = TaskPool(self.grid, poll_s=0.0, seal=self.seal)
        self.pool.hello()

    def codes(self, round_: int = 0) -> dict[str, str]:
        """What a round gives: "" for a good reply, or the number."""
        tasks = {site: (fit(site, round_), STATE_OF_ALL) for site in self.adders}
        return {a.site: a.reply.code if isinstance(a.reply, FailedReply) else "" for a in self.pool.run(tasks)}

    @property
    def calls(self) -> int:
        return sum(adder.calls for adder in self.adders.values())


def fit(site: str, round_: int = 0) -> FitTask:
    name = f"c.a.r{round_}.{site}.fit"
    return FitTask(id=name, campaign="c", round=round_, student=StudentSpec(), train=TrainSpec())


def is_fit(content: RecordDict) -> bool:
    return json.loads(content[HEAD]["body"])["kind"] == "fit"


def edited(content: RecordDict, **fields: object) -> RecordDict:
    """The message with another body, all else as it was."""
    head = dict(content[HEAD])
    head["body"] = json.dumps(json.loads(head["body"]) | fields)
    return RecordDict({HEAD: ConfigRecord(head), STATE: content[STATE]})


def resigned(content: RecordDict, context: str, key: SigningKey, **fields: object) -> RecordDict:
    """The message with other fields in its envelope, signed by ``key``."""
    head = dict(content[HEAD])
    signed = Signed.model_validate_json(head["envelope"])
    envelope = Envelope.model_validate({**json.loads(signed.body), **fields})
    head["envelope"] = Signed.seal(context, envelope, key).model_dump_json()
    return RecordDict({HEAD: ConfigRecord(head), STATE: content[STATE]})


def without(content: RecordDict, name: str) -> RecordDict:
    head = {key: value for key, value in content[HEAD].items() if key != name}
    return RecordDict({HEAD: ConfigRecord(head), STATE: content[STATE]})


def halved(content: RecordDict) -> RecordDict:
    signed = Signed.model_validate_json(content[HEAD]["envelope"])
    head = {
        **content[HEAD],
        "envelope": signed.model_copy(update={"signature": signed.signature[:44]}).model_dump_json(),
    }
    return RecordDict({HEAD: ConfigRecord(head), STATE: content[STATE]})


def on_fits(change: Callable, site: str = "b") -> Callable:
    """An attack on what one site gets or sends of a fit."""
    return lambda at, content: change(content) if at == site and is_fit(content) else content


def flipped(array: Array) -> Array:
    data = bytearray(array.data)
    data[-1] ^= 1
    return Array(dtype=array.dtype, shape=array.shape, stype=array.stype, data=bytes(data))


def other_weights(content: RecordDict) -> RecordDict:
    arrays = {name: flipped(array) if name == "float32" else array for name, array in content[STATE].items()}
    return RecordDict({HEAD: content[HEAD], STATE: ArrayRecord(arrays)})


def test_an_honest_federation_works_and_every_reply_anchors_the_log(made: Made) -> None:
    run = Run(made)
    assert run.codes() == {"a": "", "b": ""}
    (arrival,) = run.pool.run({"a": (fit("a", 1), STATE_OF_ALL)})
    np.testing.assert_array_equal(arrival.state["w"], np.ones(3, np.float32))
    head = AuditLog.of(made.state("a"), made.sites["a"]).verify(run.anchors["a"])
    assert head is not None
    assert head.anchor == run.anchors["a"]
    # hello, then twice: received, sent
    assert head.count == 5


def test_the_same_task_may_come_again_in_a_new_envelope(made: Made) -> None:
    run = Run(made)
    assert run.codes() == run.codes() == {"a": "", "b": ""}


def test_without_identity_messages_are_as_they_were(made: Made) -> None:
    pool = TaskPool(InProcessGrid(client_app(Adder), ["a"]))
    (arrival,) = pool.run({"a": (fit("a"), STATE_OF_ALL)})
    assert arrival.reply.kind == "fit"


DOWN = {
    "a field of the task": lambda c: edited(c, round=7),
    "another learning rate": lambda c: edited(c, prox_mu=0.5),
    "weights": other_weights,
    "no envelope": lambda c: without(c, "envelope"),
    "half a signature": lambda c: halved(c),
    "an envelope that is no text": lambda c: RecordDict({
        HEAD: ConfigRecord({**c[HEAD], "envelope": b"{}"}), STATE: c[STATE]
    }),
    "more in the head": lambda c: RecordDict({HEAD: ConfigRecord({**c[HEAD], "code": "print()"}), STATE: c[STATE]}),
    "no head": lambda c: RecordDict({STATE: c[STATE]}),
    "no arrays": lambda c: RecordDict({HEAD: c[HEAD]}),
}  # fmt: skip


@pytest.mark.parametrize("attack", DOWN)
def test_a_task_that_was_changed_is_refused_and_never_executed(made: Made, attack: str) -> None:
    def change(content: RecordDict) -> RecordDict:
        return DOWN[attack](content)

    run = Run(made, down=on_fits(change))
    assert run.codes() == {"a": "", "b": "OF818"}
    assert run.adders["b"].calls == 0
    assert AuditLog.of(made.state("b"), made.sites["b"]).verify() is not None


FORGED = {"job": {"job": "other"}, "round": {"round": 1}, "recipient": {"recipient": "a"}, "anyone": {"recipient": ""}}


@pytest.mark.parametrize("field", FORGED)
def test_an_envelope_that_somebody_else_has_signed_is_refused(made: Made, field: str) -> None:
    outsider = SigningKey.generate()
    run = Run(made, down=on_fits(lambda content: resigned(content, "task", outsider, **FORGED[field])))
    assert run.codes()["b"] == "OF818"
    member = made.sites["a"].key  # a member is no coordinator
    run = Run(made, down=on_fits(lambda content: resigned(content, "task", member)))
    assert run.codes()["b"] == "OF818"
    assert run.adders["b"].calls == 0


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"recipient": "a"}, "OF818"),
        ({"recipient": ""}, "OF818"),
        ({"federation": "other"}, "OF818"),
        ({"sender": "a"}, "OF818"),
        ({"parent": "0" * 64}, "OF818"),
        ({"body": "0" * 64}, "OF818"),
        ({"issued": timedelta(days=-8)}, "OF819"),
        ({"issued": timedelta(seconds=400)}, "OF819"),
        ({"number": 10**20}, "OF819"),
        ({"number": 1}, "OF819"),
    ],
)
def test_what_the_coordinator_signed_for_something_else_is_refused(made: Made, change: dict, code: str) -> None:
    answers = []
    key = made.coordinator.key
    if "issued" in change:  # from now, not from when the tests were collected
        change = {"issued": str(datetime.now(UTC) + change["issued"])}
    run = Run(made, down=on_fits(lambda content: resigned(content, "task", key, **change)))
    run.grid.up = lambda site, content: answers.append((site, json.loads(content[HEAD]["body"]))) or content
    assert run.codes()["b"] == "OF818"  # the answer is to another envelope than the coordinator's
    assert [body["code"] for site, body in answers if site == "b"] == [code]
    assert run.adders["b"].calls == 0


def test_a_task_for_another_site_is_refused(made: Made) -> None:
    seen: dict[str, RecordDict] = {}

    def down(site: str, content: RecordDict) -> RecordDict:
        if not is_fit(content):
            return content
        seen.setdefault(site, content)
        return seen["a"]

    run = Run(made, down=down)
    assert run.codes() == {"a": "", "b": "OF818"}
    assert run.adders["b"].calls == 0


def test_a_replayed_task_is_refused_even_after_a_restart(made: Made) -> None:
    seen: list[RecordDict] = []
    answers = []

    def down(site: str, content: RecordDict) -> RecordDict:
        if site == "b" and is_fit(content):
            seen.append(content)
            return seen[0]
        return content

    run = Run(made, down=down)
    assert run.codes(0) == {"a": "", "b": ""}
    run.grid.up = lambda site, content: answers.append((site, json.loads(content[HEAD]["body"]))) or content
    assert run.codes(1) == {"a": "", "b": "OF818"}
    again = Run(made, down=down)
    again.grid.up = run.grid.up
    assert again.codes(2) == {"a": "", "b": "OF818"}
    assert [body["code"] for site, body in answers if site == "b"] == ["OF819", "OF819"]
    assert run.adders["b"].calls == 1
    assert again.adders["b"].calls == 0


def test_a_replayed_reply_is_a_miss(made: Made) -> None:
    seen: list[RecordDict] = []

    def up(site: str, content: RecordDict) -> RecordDict:
        if site == "b" and is_fit(content):
            seen.append(content)
            return seen[0]
        return content

    run = Run(made, up=up)
    assert run.codes(0) == {"a": "", "b": ""}
    assert run.codes(1) == {"a": "", "b": "OF818"}
    assert run.codes(1) == {"a": "", "b": "OF818"}


def test_the_replies_of_two_sites_cannot_be_swapped(made: Made) -> None:
    seen: dict[str, RecordDict] = {}

    def up(site: str, content: RecordDict) -> RecordDict:
        if not is_fit(content):
            return content
        seen[site] = content
        # What b has said, in a's envelope and whole.
        head = {**seen["a"][HEAD], "envelope": content[HEAD]["envelope"]}
        return content if site == "a" else RecordDict({HEAD: ConfigRecord(head), STATE: seen["a"][STATE]})

    run = Run(made, up=up)
    assert run.codes() == {"a": "", "b": "OF818"}
    run.grid.up = lambda site, content: seen["a"] if site == "b" else content
    assert run.codes(1) == {"a": "", "b": "OF818"}


UP = {
    "dice": lambda c: edited(c, dice=0.99),
    "site": lambda c: edited(c, site="a"),
    "weights": other_weights,
    "no envelope": lambda c: without(c, "envelope"),
    "half a signature": DOWN["half a signature"],
    "an unsigned refusal": lambda c: to_record(FailedReply(id="t", site="b", code="OF812", rule="No."), {}),
}


@pytest.mark.parametrize("attack", UP)
def test_a_reply_that_was_changed_is_a_miss_and_the_round_goes_on(made: Made, attack: str) -> None:
    run = Run(made, up=on_fits(lambda content: UP[attack](content)))
    assert run.codes() == {"a": "", "b": "OF818"}


def test_the_number_of_an_unsigned_refusal_is_shown(made: Made) -> None:
    run = Run(made, up=on_fits(UP["an unsigned refusal"]))
    (arrival,) = run.pool.run({"b": (fit("b"), STATE_OF_ALL)})
    assert arrival.reply.rule.endswith("What came says OF812.")
    # Also of a site that cannot even say hello: whoever looks at the campaign must see why it is not there.
    pool = TaskPool(
        Attacked(run.app, ["b"], up=lambda site, content: UP["an unsigned refusal"](content)), seal=run.seal
    )
    assert pool.hello() == {}
    assert pool.roster.failed["b"].rule.endswith("What came says OF812.")


@pytest.mark.parametrize(
    "change",
    [{"job": "other"}, {"round": 5}, {"kind": "teach"}, {"parent": "0" * 64}, {"recipient": "a"}, {"sender": "a"},
     {"federation": "other"}, {"body": "0" * 64}],
)  # fmt: skip
def test_a_member_that_signs_an_answer_to_something_else_is_a_miss(made: Made, change: dict) -> None:
    run = Run(made, up=on_fits(lambda content: resigned(content, "reply", made.sites["b"].key, **change)))
    assert run.codes() == {"a": "", "b": "OF818"}


def test_a_reply_of_another_member_a_task_key_or_an_outsider_is_a_miss(made: Made) -> None:
    for key, context in [
        (made.sites["a"].key, "reply"),
        (made.coordinator.key, "reply"),
        (SigningKey.generate(), "reply"),
        (made.sites["b"].key, "task"),
    ]:
        run = Run(made, up=on_fits(lambda content, k=key, c=context: resigned(content, c, k)))
        assert run.codes() == {"a": "", "b": "OF818"}


def test_a_member_cannot_answer_in_the_name_of_another_at_hello(made: Made) -> None:
    run = Run(made, up=lambda site, content: content)
    run.adders["b"].site = "a"
    pool = TaskPool(run.grid, poll_s=0.0, seal=run.seal)
    assert list(pool.hello()) == ["a"]
    assert "b" in pool.roster.failed
    assert pool.roster.failed["b"].code == "OF818"


def test_a_member_cannot_refuse_in_the_name_of_another(made: Made) -> None:
    run = Run(made)
    run.adders["b"].execute = lambda task, state: (FailedReply(id=task.id, site="a", code="OF511", rule="No."), {})
    pool = TaskPool(run.grid, poll_s=0.0, seal=run.seal)
    assert list(pool.hello()) == ["a"]
    assert {site: reply.code for site, reply in pool.roster.failed.items()} == {"b": "OF511"}


def test_a_site_that_is_revoked_gets_nothing_and_its_reply_is_a_miss(made: Made) -> None:
    run = Run(made)
    assert run.codes(0) == {"a": "", "b": ""}
    calls = run.adders["b"].calls
    made.revoke("b")
    assert run.codes(1) == {"a": "", "b": "OF818"}
    assert run.adders["b"].calls == calls
    # Revoked while it works: what it answers counts no more.
    other = federation_of(made.folder / "other", ["a", "b"])
    late = Run(other, up=on_fits(lambda content: (other.revoke("b"), content)[1]))
    assert late.codes() == {"a": "", "b": "OF818"}


def test_the_others_learn_of_a_revocation_with_their_next_task_and_an_old_roster_is_refused(made: Made) -> None:
    old = made.coordinator.signed_roster()
    run = Run(made)
    made.revoke("b")
    run.codes()
    assert made.sites["a"].roster().standing("b") == "revoked"

    def down(site: str, content: RecordDict) -> RecordDict:
        return RecordDict(
            {HEAD: ConfigRecord({**content[HEAD], "roster": old.model_dump_json()}), STATE: content[STATE]}
        )

    run.grid.down = down
    assert run.codes(1)["a"] == "OF803"
    assert made.sites["a"].roster().standing("b") == "revoked"


@pytest.fixture
def thief(made: Made, tmp_path: Path) -> Made:
    """The same sites, and somebody with a copy of the coordinator's folder, though not of the authority's."""
    copy = tmp_path / "stolen"
    shutil.copytree(made.coordinator.folder, copy, ignore=shutil.ignore_patterns("authority"))
    return replace(made, coordinator=CoordinatorIdentity.load(copy))


def test_a_stolen_key_ends_at_once_and_a_coordinator_that_runs_goes_on(made: Made, thief: Made) -> None:
    run = Run(made)
    assert run.codes(0) == Run(thief).codes(0) == {"a": "", "b": ""}
    rotate(made.coordinator.folder, at_once=True)
    # Nobody was restarted: the next task brings the roster, and is signed with the key that it names.
    assert run.codes(1) == {"a": "", "b": ""}
    theirs = Run(thief)
    assert theirs.codes(1) == {"a": "OF803", "b": "OF803"}
    # The new roster is no secret, and the key that it names is not the thief's.
    shutil.copy(made.coordinator.folder / "roster.json", thief.coordinator.folder)
    theirs = Run(thief)
    assert theirs.codes(1) == {"a": "OF818", "b": "OF818"}
    assert theirs.calls == 0
    assert run.codes(2) == {"a": "", "b": ""}


def test_a_thief_who_withholds_the_roster_is_ended_by_a_kit_that_comes_another_way(made: Made, thief: Made) -> None:
    """What signatures alone cannot stop: sites that were told nothing yet."""
    rotate(made.coordinator.folder, at_once=True)
    theirs = Run(thief)
    assert theirs.codes(0) == {"a": "", "b": ""}
    folder = made.state("b") / "identity"
    join(folder, admit(made.coordinator.folder, enrol(folder, "b")))
    assert theirs.codes(1) == {"a": "", "b": "OF803"}
    assert Run(made).codes(2) == {"a": "", "b": ""}
    assert theirs.codes(3) == {"a": "OF803", "b": "OF803"}


def test_a_message_between_the_roster_and_the_key_of_a_rotation_is_signed_with_what_the_roster_names(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, rename = Run(made), os.replace

    def failing(source, target) -> None:
        if Path(source).suffix == ".next":
            raise KeyboardInterrupt
        rename(source, target)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(KeyboardInterrupt):
        rotate(made.coordinator.folder, at_once=True)
    monkeypatch.setattr(os, "replace", rename)
    assert (made.coordinator.folder / "sign.key.next").is_file()
    assert run.codes() == {"a": "", "b": ""}


def test_keys_that_have_expired_count_no_more(tmp_path: Path) -> None:
    before = federation_of(tmp_path, ["a"], now=datetime.now(UTC) - timedelta(days=89))
    run = Run(before)
    assert run.codes() == {"a": ""}
    old = federation_of(tmp_path / "old", ["a"], now=datetime.now(UTC) - timedelta(days=100))
    run = Run(old)  # the coordinator's key is valid for 90 days
    assert run.codes() == {"a": "OF818"}
    assert run.adders["a"].calls == 0


def test_a_site_whose_key_has_expired_gets_nothing_and_says_nothing(made: Made) -> None:
    made.admit("c", datetime.now(UTC) - timedelta(days=366))
    rotate(made.coordinator.folder)  # a roster that holds, with a new key: a coordinator that runs signs with it
    signers = set()
    run = Run(made, down=lambda _, c: (signers.add(Signed.model_validate_json(c[HEAD]["envelope"]).key), c)[1])
    assert run.codes() == {"a": "", "b": "", "c": "OF818"}
    assert run.pool.roster.failed["c"].code == "OF818"
    assert run.adders["c"].calls == 0
    assert signers == {SigningKey.load(made.coordinator.folder / "sign.key").public}


def test_what_cannot_be_audited_does_not_leave_and_is_not_executed(made: Made) -> None:
    run = Run(made)
    log = made.state("b") / "audit" / "log.jsonl"
    log.write_bytes(log.read_bytes().replace(b"hello", b"hallo"))
    assert run.codes() == {"a": "", "b": "OF830"}
    assert run.adders["b"].calls == 0


def test_a_site_without_identity_answers_with_the_number_of_that(made: Made) -> None:
    def guard_of(site: str) -> SiteSeal:
        return SiteSeal(SiteIdentity.load(made.folder / "nowhere"), AuditLog.of(made.state("a"), made.sites["a"]))

    pool = TaskPool(InProcessGrid(client_app(Adder, guard_of), ["a"]))
    (arrival,) = pool.run({"a": (fit("a"), STATE_OF_ALL)})
    assert arrival.reply.code == "OF804"


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> tuple[CoordinatorSeal, SiteSeal, Packed]:
    made = federation_of(tmp_path_factory.mktemp("flips"), ["a"])
    return (
        CoordinatorSeal(made.coordinator),
        SiteSeal(made.sites["a"], AuditLog.of(made.state("a"), made.sites["a"])),
        pack(STATE_OF_ALL),
    )


def flip(content: RecordDict, where: float, bit: int) -> RecordDict:
    """The message with one bit flipped: of a text of the head, or of what Flower sends of an array."""
    head = {key: value.encode() for key, value in content[HEAD].items()}
    arrays = {name: [a.dtype.encode(), a.stype.encode(), a.data] for name, a in content[STATE].items()}
    places = [(part, key, 0) for part, table in (("head", head),) for key in table]
    places += [("array", name, k) for name in arrays for k in range(3)]
    sizes = [len(head[key]) if part == "head" else len(arrays[key][k]) for part, key, k in places]
    at = int(where * sum(sizes))
    for (part, key, k), size in zip(places, sizes, strict=True):
        if at < size:
            data = bytearray(head[key] if part == "head" else arrays[key][k])
            data[at] ^= 1 << bit
            if part == "head":
                head[key] = bytes(data)
            else:
                arrays[key][k] = bytes(data)
            break
        at -= size
    texts = {key: value.decode("utf-8", "replace") for key, value in head.items()}
    made = {
        name: Array(
            dtype=parts[0].decode("utf-8", "replace"),
            shape=content[STATE][name].shape,
            stype=parts[1].decode("utf-8", "replace"),
            data=parts[2],
        )
        for name, parts in arrays.items()
    }
    return RecordDict({HEAD: ConfigRecord(texts), STATE: ArrayRecord(made)})


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_no_flipped_bit_of_a_task_is_executed(ends, where: float, bit: int) -> None:
    coordinator, site, state = ends
    record = to_record(fit("a"), state)
    coordinator.seal(record, fit("a"), state, "a")
    worked = []
    site.answer(flip(record, where, bit), lambda content: worked.append(content) or to_record(fit("a"), {}))
    assert worked == []


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_no_flipped_bit_of_a_reply_counts(ends, where: float, bit: int) -> None:
    coordinator, site, state = ends
    record = to_record(fit("a"), state)
    posted = coordinator.seal(record, fit("a"), state, "a")
    answer = site.answer(record, lambda content: to_record(*Adder("a").execute(fit("a"), dict(STATE_OF_ALL))))
    assert coordinator.open(answer, posted)[0].kind == "fit"
    changed = flip(answer, where, bit)
    with pytest.raises(Exception, match="OF818"):
        coordinator.open(changed, posted)


def test_numbers_rise_when_the_clock_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([5, 5, 3, 100])
    monkeypatch.setattr("omnifed.trust.envelope.time.time_ns", lambda: next(times))
    numbers = Numbers()
    assert [numbers.next() for _ in range(4)] == [5, 6, 7, 100]


def test_arrays_are_hashed_once_for_all_sites(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    from omnifed.transport import records

    original = records.array_hash
    monkeypatch.setattr(records, "array_hash", lambda arrays: seen.append(1) or original(arrays))
    seal = CoordinatorSeal(made.coordinator)
    state = pack(STATE_OF_ALL)
    posted: list[Posted] = [seal.seal(to_record(fit(s), state), fit(s), state, s) for s in ("a", "b")]
    assert len(seen) == 1
    assert posted[0].envelope.number < posted[1].envelope.number


def test_a_coordinator_without_roster_sends_nothing(made: Made) -> None:
    (made.coordinator.folder / "roster.json").unlink()
    identity = CoordinatorIdentity.load(made.coordinator.folder)
    with pytest.raises(Exception, match="OF802"):
        CoordinatorSeal(identity).seal(to_record(fit("a"), {}), fit("a"), pack({}), "a")
