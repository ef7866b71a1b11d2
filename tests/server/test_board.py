"""The board is a fold of the events: exact figures, whatever is unknown, told twice or torn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from omnifed.events import EventLog
from omnifed.tail import plain, time_of
from omnifed_server.board import Board, Tail


def event(name: str, second: int = 0, /, **values: Any) -> dict[str, Any]:
    return {"time": f"2026-01-02T03:04:{second:02}+00:00", "event": name, **values}


def reply(arm: str, round_: int, site: str, dice: float, **values: Any) -> dict[str, Any]:
    costs = {"bytes_up": 100, "bytes_down": 30, "seconds": 2.0}
    return event("round", round_, arm=arm, round=round_, site=site, dice=dice, **costs, **values)


def fold(events: list[dict[str, Any]], **options: Any) -> Board:
    board = Board(**options)
    for one in events:
        board.add(one)
    return board


def test_a_campaign_by_hand() -> None:
    board = fold(
        [
            event("campaign", 0, state="started", name="lungs"),
            event("stage", 0, stage="prepare", total=3),
            event("site", 1, site="a", state="joined", version="0.1.0", train=5, val=2, test=1, modality="CT"),
            event("site", 1, site="b", state="joined", version="0.1.0", train=4, val=2, test=1, modality="MR"),
        ],
        sites=("a", "b", "c"),
        arms=("fedbn", "omnikd"),
    )
    assert (board.stage, board.done, board.total) == ("prepare", 2, 3)
    assert board.sites["a"].cases == {"train": 5, "val": 2, "test": 1}
    assert board.sites["c"].state == "never seen"
    for one in (
        event("stage", 2, stage="teach", total=3),
        event("teach", 3, site="a", dice=0.8, seconds=9.0, bytes_up=7, bytes_down=5),
        event("stage", 4, stage="fedbn", total=4),
        event("site", 4, site="b", state="working", task="fit"),
        reply("fedbn", 0, "a", 0.5),
        reply("fedbn", 0, "b", 0.25),
        event("aggregate", 5, arm="fedbn", round=0, seconds=3.0),
        reply("fedbn", 1, "a", 0.75),
        event("miss", 6, arm="fedbn", round=1, site="b", code="OF502", rule="late"),
        event("aggregate", 7, arm="fedbn", round=1, seconds=5.0),
    ):
        board.add(one)
    a, b = board.sites["a"], board.sites["b"]
    assert (a.round, a.dice, list(a.history)) == (1, {"teacher": 0.8, "fedbn": 0.75}, [0.5, 0.75])
    assert (a.bytes_up, a.bytes_down) == (207, 65)
    assert (b.state, b.task, b.cause, dict(b.misses)) == ("working", "fit", ("OF502", "late"), {"OF502": 1})
    assert (board.done, board.total, board.rounds) == (2, 4, {"fedbn": 2})
    assert board.round_seconds == {"fedbn": (8.0, 2)}
    assert (board.bytes_up, board.bytes_down, board.missed) == (307, 95, 1)
    assert board.seconds_left == (4 - 2 + 4) * 4.0  # two rounds here and four of omnikd, at (3 + 5) / 2 s
    assert board.elapsed_seconds == 7.0
    board.add(event("campaign", 9, state="finished", name="lungs"))
    assert board.ended
    assert board.seconds_left is None


def test_replies_that_are_told_again_after_a_resume_count_once() -> None:
    board = fold(
        [
            reply("fedbn", 0, "a", 0.5),
            event("campaign", state="resumed", name="x"),
            reply("fedbn", 0, "a", 0.5, again=True),
            reply("fedbn", 0, "b", 0.6, again=True),  # killed after it was kept and before it was told
            reply("fedbn", 1, "a", 0.7),
        ]
    )
    assert board.sites["a"].bytes_up == 200
    assert list(board.sites["a"].history) == [0.5, 0.7]
    assert board.sites["b"].bytes_up == 100
    test = event("evaluate", arm="fedbn", site="a", which="adopted", split="test", dice=0.4, bytes_up=11)
    for one in (event("stage", stage="test", total=2), test, {**test, "again": True}):
        board.add(one)
    assert (board.done, board.sites["a"].bytes_up) == (1, 211)
    assert board.sites["a"].test == {("fedbn", "adopted", "test"): 0.4}


def test_waiting_ends_when_work_begins_and_keeps_its_cause_until_then() -> None:
    board = fold([event("campaign", state="waiting", name="x", code="OF530", rule="a quorum")])
    assert (board.state, board.cause) == ("waiting", ("OF530", "a quorum"))
    board.add(event("stage", stage="teach", total=1))
    assert (board.state, board.cause) == ("resumed", ("", ""))


def trial(number: Any, site: str, dice: float, best: float, /, **values: Any) -> dict[str, Any]:
    place = {"stage": "search-architecture", "site": site, "number": number, "total": 4, "key": "k", "steps": 20}
    return event("trial", **place, why="model", dice=dice, se=0.01, seconds=3.0, best=best, **values)


def test_a_search_by_hand_and_taken_up_again() -> None:
    bytes_ = {"bytes_up": 10, "bytes_down": 3}
    told = [trial(1, "a", 0.5, 0.5, **bytes_), trial(2, "b", 0.25, 0.5, **bytes_), trial(3, "a", 0.75, 0.75, **bytes_)]
    bench = event("bench", site="a", device="Pi 4", networks=5, seconds=40.0, bytes_up=7, bytes_down=2)
    board = fold([event("stage", stage="bench", total=2), bench])
    assert (board.done, board.total, board.sites["a"].seconds) == (1, 2, 40.0)
    board.add({**bench, "again": True})
    for one in (event("stage", stage="search-architecture", total=4), *told):
        board.add(one)
    search, a = board.searches["search-architecture"], board.sites["a"]
    assert (board.done, board.total, search.trials, search.best) == (3, 4, 3, 0.75)
    assert (a.arm, a.round, list(a.history), a.dice) == ("search-architecture", 1, [0.5, 0.75], a.dice)
    assert (a.bytes_up, a.bytes_down, board.bytes_up) == (27, 8, 37)
    assert board.seconds_left is None
    # A killed coordinator tells again what the journal holds, one trial of which no event was written.
    again = [trial(n, s, d, b, again=True) for n, s, d, b in ((1, "a", 0.5, 0.5), (2, "b", 0.25, 0.5))]
    again += [trial(3, "a", 0.75, 0.75, again=True), trial(4, "b", 0.8, 0.8, again=True)]
    for one in (event("stage", stage="search-architecture", total=4), *again):
        board.add(one)
    assert (board.done, search.best, board.sites["b"].replies["search-architecture"]) == (4, 0.8, 2)
    assert (board.bytes_up, list(a.history)) == (37, [0.5, 0.75])
    board.add(trial(1, "a", 0.1, 0.1))  # another journal
    assert (board.done, search.best) == (1, 0.1)


@pytest.mark.parametrize(
    "odd",
    [
        {},
        {"event": None},
        {"event": ["x"]},
        event("comet", site="a"),
        event("round"),
        event("round", arm=3, round="x", site=None, dice="high", bytes_up=None, seconds=float("nan")),
        event("site", site="a", state="dancing"),
        event("campaign", state="dancing"),
        event("stage", total="many"),
        event("miss"),
        event("trial"),
        event("trial", stage=["x"], site={}, number="first", dice="high", best=float("nan"), again=1),
        event("bench", site=None, networks="many", bytes_up="x"),
        event("search", chosen=3),
        {"event": "teach", "time": "yesterday", "site": "a", "dice": None},
    ],
)
def test_no_event_can_break_it(odd: dict[str, Any]) -> None:
    board = fold([odd])
    assert board.bytes_up == 0


def test_what_a_site_says_cannot_reach_the_terminal_or_a_label_unfiltered() -> None:
    board = fold([event("miss", site="a\x1b[2J", code="rm -rf", rule="x\x1b]0;evil\x07\n" + "y" * 500)])
    (row,) = board.sites.values()
    assert row.name == "a [2J"
    assert dict(row.misses) == {"other": 1}
    assert len(row.cause[1]) == 200
    assert row.cause[1].isprintable()
    assert plain(None) == ""


def test_memory_does_not_grow_with_the_rounds() -> None:
    board = Board()
    for round_ in range(500):
        board.add(reply("fedbn", 0, "a", 0.5) | {"round": round_})
        board.add(event("aggregate", arm="fedbn", round=round_, seconds=1.0))
    assert len(board.sites["a"].history) == 32
    assert len(board._counted[2]) == 1
    assert board.rounds == {"fedbn": 500}


def test_times() -> None:
    assert time_of({"time": "2026-01-02T03:04:05"}) == time_of({"time": "2026-01-02T03:04:05+00:00"})
    assert time_of({}) is None


def line(number: int) -> str:
    return json.dumps({"event": "x", "n": number}) + "\n"


def numbers(tail: Tail) -> list[int]:
    return [event["n"] for event in tail.read()]


def test_a_tail_gives_each_whole_line_once(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    tail = Tail(path)
    assert tail.read() == []  # not there yet
    path.write_text(line(1) + "no json\n[1]\n" + line(2)[:9])
    assert numbers(tail) == [1]
    assert numbers(tail) == []
    with path.open("a") as file:
        file.write(line(2)[9:] + line(3))
    assert numbers(tail) == [2, 3]
    assert not tail.restarted


def test_a_tail_survives_a_torn_line_and_the_log_that_drops_it(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text(line(1) + line(2) + '{"event": "to')
    tail = Tail(path)
    assert numbers(tail) == [1, 2]
    EventLog(path).add("x", {"n": 3})  # rewrites the file
    assert numbers(tail) == [3]
    assert not tail.restarted


def test_a_tail_that_looks_while_the_log_is_rewritten_repeats_nothing(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text(line(1) + line(2))
    tail = Tail(path)
    assert numbers(tail) == [1, 2]
    path.write_text("")
    assert numbers(tail) == []
    path.write_text(line(1) + line(2) + line(3))
    assert numbers(tail) == [3]


@pytest.mark.parametrize("other", [line(7), line(7) + line(8) + line(9)], ids=["shorter", "longer"])
def test_another_file_in_its_place_is_read_from_its_start_and_the_board_begins_anew(tmp_path: Path, other: str) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text(json.dumps(reply("old", 0, "gone", 0.5)) + "\n" + line(2))
    tail, board = Tail(path), Board()
    assert len(board.follow(tail)) == 2
    assert "gone" in board.sites
    path.unlink()
    assert board.follow(tail) == []
    path.write_text(other)
    found = board.follow(tail) or board.follow(tail)
    assert found[0]["n"] == 7
    assert board.sites == {}
