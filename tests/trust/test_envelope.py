"""What an envelope must say, by hand, and which numbers a site takes; tests/transport/test_sealed.py attacks a grid."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omnifed.errors import OmniFedError
from omnifed.trust.envelope import REPLY, TASK, Envelope, claimed_sender, digest, open_reply, open_task
from omnifed.trust.replay import AHEAD, LONGEST, REMEMBERED, Replay, Taken
from omnifed.trust.roster import Member, MemberTerm, Roster, Term
from omnifed.trust.signing import Signed, SigningKey

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
BODY = "ab" * 32
COORDINATOR, OLD, SITE, OTHER = (SigningKey.generate() for _ in range(4))


def member(site: str, key: SigningKey, revoked: datetime | None = None) -> Member:
    term = MemberTerm(sign=key.public, since=NOW - DAY, until=NOW + DAY, node="ecdsa-sha2-nistp384 x")
    return Member(site=site, terms=(term,), revoked=revoked)


ROSTER = Roster(
    federation="f",
    version=1,
    issued=NOW - DAY,
    expires=NOW + 30 * DAY,
    coordinator=(
        Term(sign=OLD.public, since=NOW - 90 * DAY, until=NOW - DAY),
        Term(sign=COORDINATOR.public, since=NOW - DAY, until=NOW + DAY),
    ),
    members=(member("a", SITE), member("b", OTHER, revoked=NOW - DAY)),
)


def task(**fields: object) -> Envelope:
    values = {"sender": "coordinator", "recipient": "a", "job": "c", "round": 2, "kind": "fit"}
    return Envelope.model_validate({"federation": "f", "number": 5, "issued": NOW, "body": BODY, **values, **fields})


def code_of(use, *arguments, **options) -> str:
    with pytest.raises(OmniFedError) as caught:
        use(*arguments, **options)
    return caught.value.code


def opened(envelope: Envelope, key: SigningKey = COORDINATOR, context: str = TASK, now: datetime = NOW) -> Envelope:
    signed = Signed.seal(context, envelope, key)
    return open_task(signed, BODY, site="a", federation="f", roster=ROSTER, now=now)


def test_a_true_task_and_its_reply() -> None:
    assert opened(task()) == task()
    assert opened(task(kind="hello", recipient="")) == task(kind="hello", recipient="")
    parent = digest(Signed.seal(TASK, task(), COORDINATOR))
    reply = task(sender="a", recipient="coordinator", parent=parent)
    signed = Signed.seal(REPLY, reply, SITE)
    assert open_reply(signed, BODY, task=task(), parent=parent, roster=ROSTER, now=NOW) == reply
    assert claimed_sender(signed) == "a"
    assert claimed_sender(Signed(body="{}", key="", signature="")) == ""


@pytest.mark.parametrize(
    ("fields", "key", "context"),
    [
        ({}, OLD, TASK),
        ({}, SITE, TASK),
        ({}, COORDINATOR, REPLY),
        ({"recipient": "b"}, COORDINATOR, TASK),
        ({"recipient": ""}, COORDINATOR, TASK),
        ({"body": "cd" * 32}, COORDINATOR, TASK),
        ({"parent": "cd" * 32}, COORDINATOR, TASK),
        ({"sender": "a"}, COORDINATOR, TASK),
        ({"federation": "g"}, COORDINATOR, TASK),
    ],
)
def test_a_task_that_is_not_what_its_envelope_says(fields: dict, key: SigningKey, context: str) -> None:
    assert code_of(opened, task(**fields), key, context) == "OF818"


def test_a_task_is_refused_as_soon_as_it_is_too_old_or_too_new() -> None:
    second = timedelta(seconds=1)
    assert opened(task(issued=NOW + AHEAD))
    assert code_of(opened, task(issued=NOW + AHEAD + second)) == "OF819"
    assert opened(task(issued=NOW - LONGEST))
    assert code_of(opened, task(issued=NOW - LONGEST - second)) == "OF819"
    number = int((NOW + AHEAD).timestamp()) * 10**9
    assert opened(task(number=number))
    assert code_of(opened, task(number=number + 10**9)) == "OF819"


@pytest.mark.parametrize(
    ("fields", "key", "now"),
    [
        ({"sender": "b"}, OTHER, NOW),
        ({"sender": "nobody"}, SITE, NOW),
        ({}, OTHER, NOW),
        ({}, SITE, NOW + DAY),
        ({"recipient": "a"}, SITE, NOW),
        ({"parent": ""}, SITE, NOW),
        ({"job": "d"}, SITE, NOW),
        ({"round": 3}, SITE, NOW),
        ({"kind": "teach"}, SITE, NOW),
        ({"body": "cd" * 32}, SITE, NOW),
        ({"federation": "g"}, SITE, NOW),
    ],
)
def test_a_reply_that_does_not_answer(fields: dict, key: SigningKey, now: datetime) -> None:
    parent = digest(Signed.seal(TASK, task(), COORDINATOR))
    reply = task(**{"sender": "a", "recipient": "coordinator", "parent": parent, **fields})
    signed = Signed.seal(REPLY, reply, key)
    assert code_of(open_reply, signed, BODY, task=task(), parent=parent, roster=ROSTER, now=now) == "OF818"


def test_a_signature_has_one_spelling() -> None:
    signed = Signed.seal(TASK, task(), COORDINATOR)
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    last = letters.index(signed.signature[-3])
    other = signed.model_copy(update={"signature": signed.signature[:-3] + letters[last ^ 1] + "=="})
    assert code_of(open_task, other, BODY, site="a", federation="f", roster=ROSTER, now=NOW) == "OF818"


# Numbers --------------------------------------------------------------------------------------------------------


@pytest.fixture
def replay(tmp_path: Path) -> Replay:
    path = tmp_path / "replay.json"
    path.write_text(Taken(floor=100).model_dump_json())
    return Replay(path)


def test_a_number_is_taken_once_in_any_order(replay: Replay) -> None:
    for number in (110, 105, 120, 101):
        replay.take(number)
        assert code_of(Replay(replay.path).take, number) == "OF819"
    assert json.loads(replay.path.read_text()) == {"floor": 100, "numbers": [101, 105, 110, 120]}
    assert code_of(replay.take, 100) == "OF819"
    assert replay.path.stat().st_mode & 0o777 == 0o600


def test_what_is_forgotten_is_refused(replay: Replay) -> None:
    replay.path.write_text(Taken(floor=100, numbers=tuple(range(200, 200 + REMEMBERED))).model_dump_json())
    replay.take(150)  # it came late, and is forgotten at once
    assert code_of(replay.take, 150) == "OF819"
    replay.take(5000)
    assert code_of(replay.take, 200) == "OF819"
    taken = Taken.model_validate_json(replay.path.read_text())
    assert (taken.floor, len(taken.numbers), taken.numbers[0]) == (200, REMEMBERED, 201)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(101, 130), max_size=25))
def test_no_order_of_messages_lets_one_in_twice(numbers: list[int]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "replay.json"
        path.write_text(Taken(floor=100).model_dump_json())
        taken = []
        for number in numbers:
            try:
                Replay(path).take(number)
                taken.append(number)
            except OmniFedError:
                assert number in taken
    assert sorted(taken) == sorted(set(numbers))


def test_a_file_that_was_removed_or_damaged_opens_no_door(tmp_path: Path) -> None:
    replay = Replay(tmp_path / "replay.json")
    now = time.time_ns()
    assert code_of(replay.take, now - int((AHEAD.total_seconds() + 5) * 1e9)) == "OF819"
    replay.take(now)
    replay.path.write_text("{")
    assert code_of(replay.take, now + 1) == "OF819"
