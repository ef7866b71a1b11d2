"""What a person sees: it fits, it names the cause, and it says the same in plain lines."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from typing import Any

import pytest
from rich.console import Console

from omnifed_server.board import Board
from omnifed_server.view import lines, render, sparkline

NOW = datetime(2026, 1, 2, 4, 5, 6, tzinfo=UTC)


def event(name: str, /, **values: Any) -> dict[str, Any]:
    return {"time": "2026-01-02T03:04:05+00:00", "event": name, **values}


EVENTS = [
    event("campaign", state="started", name="lungs"),
    event("site", site="north", state="joined", version="0.1.0", modality="CT", train=5, val=2, test=1),
    event("stage", stage="omnikd", total=4),
    event("round", arm="omnikd", round=0, site="north", dice=0.5, seconds=2, bytes_up=3 << 20, bytes_down=200 << 20),
    event("round", arm="omnikd", round=1, site="north", dice=0.75, seconds=2, bytes_up=0, bytes_down=0),
    event("aggregate", arm="omnikd", round=1, sites=1, misses=1, seconds=30, bytes_up=3 << 20, bytes_down=5),
    event("miss", arm="omnikd", round=1, site="a_site_of_a_very_long_name", code="OF502", rule="It must be [in] time."),
    event("site", site="south", state="working", task="fit"),
]


def text(board: Board, width: int = 80) -> str:
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    console.print(render(board, NOW))
    return console.file.getvalue()  # type: ignore[attr-defined]


def board(events: list[dict[str, Any]] = EVENTS) -> Board:
    made = Board(("north", "south"))
    for one in events:
        made.add(one)
    return made


def test_the_screen_fits_80_columns_and_names_site_state_round_dice_bytes_and_cause() -> None:
    shown = text(board())
    assert max(map(len, shown.splitlines())) <= 80
    north = next(line.split() for line in shown.splitlines() if line.startswith("north"))
    assert north == ["north", "joined", "2", "0.750", "▁█", "3.00", "200", "0"]
    late = next(line for line in shown.splitlines() if line.startswith("a_site"))
    assert "OF502" in late
    assert "Stage omnikd: 2 of 4 rounds done" in shown
    assert "left about 0:01:00" in shown  # two rounds of 30 s
    assert "elapsed 1:01:01" in shown
    assert "It must be [in] time." in shown  # no markup is read from what a site says


def test_an_empty_board_and_a_failed_one_can_be_shown() -> None:
    assert "no stage yet" in text(Board())
    failed = text(board([event("campaign", state="failed", name="x", code="OF530", rule="A quorum.")]))
    assert "OF530: A quorum." in failed


TRIAL = event("trial", stage="search-architecture", site="north", number=7, total=24, dice=0.6) | {
    "key": "omnisegnet/c16",
    "why": "promoted",
    "steps": 60,
    "se": 0.02,
    "seconds": 12,
    "best": 0.712,
    "bytes_up": 2 << 20,
    "bytes_down": 1 << 20,
}


def test_a_search_shows_its_trials_and_the_best_so_far_within_80_columns() -> None:
    made = board([event("stage", stage="search-architecture", total=24), TRIAL])
    shown = text(made)
    assert max(map(len, shown.splitlines())) <= 80
    stage = next(line for line in shown.splitlines() if "Stage" in line)
    assert " ".join(stage.split()) == "│ Stage search-architecture: 7 of 24 trials best Dice 0.712 │"
    north = next(line.split() for line in shown.splitlines() if line.startswith("north"))
    assert north == ["north", "idle", "1", "0.600", "▄", "2.00", "1.00", "0"]
    assert "Trial" in shown
    assert "Round" not in shown


def test_a_search_whose_budget_is_in_minutes_and_that_has_no_trial_yet_can_be_shown() -> None:
    made = board([event("stage", stage="search-weights", total=0)])
    assert "Stage search-weights: 0 trials" in text(made)
    assert "best" not in text(made)
    made.add(event("trial", stage="search-weights", site="north", number=1, dice=0.5, best=0.5))
    assert "Stage search-weights: 1 trials" in text(made)
    assert "best Dice 0.500" in text(made)


@pytest.mark.parametrize(
    ("one", "line"),
    [
        (
            TRIAL,
            "north: search-architecture trial 7 of 24 Dice 0.600 (se 0.020), 60 steps, 12.0 s, best 0.712: "
            "promoted omnisegnet/c16",
        ),
        (
            event("trial", stage="search-weights", site="a\x1b[2J", number=1, key="k\n", steps=5, again=True),
            "a [2J: search-weights trial 1, 5 steps, 0.0 s: k (kept from before)",
        ),
        (
            event("search", stage="search-architecture", trials=24, failed=1, seconds=3700, chosen={"pi\x07": "c16"}),
            "search-architecture done: 24 trials, 1 failed, 1:01:40 of the sites' work; pi: c16",
        ),
        (
            event("bench", site="north", device="Raspberry Pi 4", networks=10, seconds=42.2, bytes_up=1 << 20),
            "north: 10 networks measured on Raspberry Pi 4, 42 s, 1.00 MiB up",
        ),
    ],
)
def test_plain_lines_of_a_search(one: dict[str, Any], line: str) -> None:
    assert lines(one) == f"2026-01-02 03:04:05Z {line}"


@pytest.mark.parametrize(
    ("values", "bars"),
    [([], ""), ([0.5], "▄"), ([0.5, 0.5], "▄▄"), ([0.0, 0.5, 1.0], "▁▅█"), ([9.0] + [0.0] * 7, "▄" * 7)],
)
def test_sparklines(values: list[float], bars: str) -> None:
    assert sparkline(values) == bars


@pytest.mark.parametrize(
    ("number", "line"),
    [
        (0, "campaign lungs: started"),
        (1, "north: joined (omnifed 0.1.0, CT, train 5, val 2, test 1)"),
        (2, "stage omnikd begins (4)"),
        (3, "north: omnikd round 1 Dice 0.500, 2.0 s, 3.00 MiB up"),
        (5, "omnikd round 2 done: 1 sites, 1 misses, 30.0 s, 3.00 MiB up, 0.00 MiB down"),
        (6, "a_site_of_a_very_long_name: missed omnikd round 2 (OF502: It must be [in] time.)"),
        (7, None),
    ],
)
def test_plain_lines(number: int, line: str | None) -> None:
    assert lines(EVENTS[number]) == (line and f"2026-01-02 03:04:05Z {line}")


@pytest.mark.parametrize(
    "name",
    [
        "campaign",
        "site",
        "stage",
        "teach",
        "bench",
        "trial",
        "search",
        "round",
        "miss",
        "aggregate",
        "evaluate",
        "export",
    ],
)
def test_an_event_without_its_fields_still_makes_no_trouble(name: str) -> None:
    assert "None" not in (lines({"event": name}) or "")
    assert lines({"event": "unheard of"}) is None
    assert lines({}) is None
