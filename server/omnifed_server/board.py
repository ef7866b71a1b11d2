"""The state of a campaign, folded from its events: what views and metrics show. No torch, no files."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from omnifed.tail import Tail as Tail
from omnifed.tail import plain, time_of
from omnifed_server.board_site import CAMPAIGN_STATES as CAMPAIGN_STATES
from omnifed_server.board_site import SITE_STATES as SITE_STATES
from omnifed_server.board_site import TEACHER as TEACHER
from omnifed_server.board_site import SearchRow as SearchRow
from omnifed_server.board_site import SiteRow as SiteRow
from omnifed_server.board_site import cause, count, number, put
from omnifed_server.plan import SEARCH_ARCHITECTURE, SEARCH_WEIGHTS

ENDED = ("finished", "failed", "stopped")
PRESENT = ("joined", "working", "idle")
"""States of a site that is there."""

SEARCHES = (SEARCH_ARCHITECTURE, SEARCH_WEIGHTS)
"""Stages that count trials."""

_STAGES = ("prepare", "teach", "bench", "train", "test", "export")
_MEASURED_ROUNDS = 5


class Board:
    """Folds events, in order, with :meth:`add`; unknown events and keys are passed over.

    Args:
        sites: registered names that are expected; shown before they join.
        arms: all arms in their order; lets the time left count the arms to come.

    Attributes:
        lock: held while an event is folded; a reader in another thread holds it, too.
        name: of the campaign.
        state: of the campaign, one of :data:`CAMPAIGN_STATES`.
        cause: code and rule where the campaign waits or has failed.
        stage: prepare, teach, bench, one of :data:`SEARCHES`, an arm's name, test or export.
        total: rounds, sites or trials of the stage; 0 where unknown.
        rounds: finished rounds by arm.
        round_seconds: sum and number of measured rounds by arm.
        means: last validation Dice by arm, the mean of the sites, where private rounds tell nothing else.
        searches: by stage.
        sites: by name.
        started: time of the first event.
        seen: time of the last event.
        messages: the last events that a person should read.
    """

    def __init__(self, sites: Sequence[str] = (), arms: Sequence[str] = ()) -> None:
        self._expected, self._arms = tuple(sites), tuple(arms)
        self.lock = threading.RLock()
        self.reset()

    def reset(self) -> None:
        """Forgets every event."""
        self.name, self.state, self.cause = "", "not started", ("", "")
        self.stage, self.total = "", 0
        self.rounds: dict[str, int] = {}
        self.round_seconds: dict[str, tuple[float, int]] = {}
        self.means: dict[str, float] = {}
        self.searches: dict[str, SearchRow] = {}
        self.sites = {name: SiteRow(name) for name in self._expected}
        self.started: datetime | None = None
        self.seen: datetime | None = None
        self.messages: deque[dict[str, Any]] = deque(maxlen=8)
        self._last_rounds: deque[float] = deque(maxlen=_MEASURED_ROUNDS)
        self._counted: tuple[str, int, set[str]] = ("", 0, set())
        self._told: set[tuple[str, str]] = set()
        self._done: set[str] = set()

    def follow(self, tail: Tail) -> list[dict[str, Any]]:
        """Folds what is new in an event log.

        Returns:
            The new events, in order, for those who write them elsewhere.
        """
        events = tail.read()
        with self.lock:
            if tail.restarted:
                self.reset()
            for event in events:
                self.add(event)
        return events

    def add(self, event: dict[str, Any]) -> None:
        """Folds one event."""
        with self.lock:
            time = time_of(event)
            self.started = self.started or time
            self.seen = time or self.seen
            handler = _HANDLERS.get(str(event.get("event")))
            if handler:
                handler(self, event)

    @property
    def ended(self) -> bool:
        """Whether nothing more is to come."""
        return self.state in ENDED

    @property
    def done(self) -> int:
        """How many of :attr:`total` are done in this stage."""
        if self.stage in SEARCHES:
            return self.searches.get(self.stage, SearchRow()).trials
        if self.stage in self.rounds or self.stage not in _STAGES:
            return self.rounds.get(self.stage, 0)
        if self.stage == "prepare":
            return sum(row.state in PRESENT for row in self.sites.values())
        return len(self._done)

    @property
    def elapsed_seconds(self) -> float:
        """From the first to the last event."""
        return (self.seen - self.started).total_seconds() if self.seen and self.started else 0.0

    @property
    def seconds_left(self) -> float | None:
        """Of the rounds to come, at the mean of the last measured ones; None outside of the rounds."""
        if self.ended or self.stage in _STAGES or not self._last_rounds or not self.total:
            return None
        later = self._arms.index(self.stage) + 1 if self.stage in self._arms else len(self._arms)
        rounds = max(0, self.total - self.done) + self.total * len(self._arms[later:])
        return rounds * sum(self._last_rounds) / len(self._last_rounds)

    @property
    def missed(self) -> int:
        """Misses of all sites."""
        return sum(sum(row.misses.values()) for row in self.sites.values())

    @property
    def bytes_up(self) -> int:
        """Received from all sites."""
        return sum(row.bytes_up for row in self.sites.values())

    @property
    def bytes_down(self) -> int:
        """Sent to all sites."""
        return sum(row.bytes_down for row in self.sites.values())

    def _row(self, event: dict[str, Any]) -> SiteRow:
        name = plain(event.get("site"), 64) or "?"
        return self.sites.setdefault(name, SiteRow(name))

    def _heard(self, event: dict[str, Any]) -> SiteRow:
        """The row of a site that answered: it is there, even where nothing has said so (omnifed-sim)."""
        row = self._row(event)
        if row.state == "never seen":
            row.state = "idle"
        return row

    def _campaign(self, event: dict[str, Any]) -> None:
        state = event.get("state")
        if state in CAMPAIGN_STATES:
            self.state = str(state)
        self.name = plain(event.get("name"), 80) or self.name
        self.cause = cause(event)
        self.messages.append(event)

    def _site(self, event: dict[str, Any]) -> None:
        row, state = self._row(event), event.get("state")
        if state not in SITE_STATES:
            return
        row.state = str(state)
        row.task = plain(event.get("task"), 20) if state == "working" else ""
        if state == "joined":
            row.version, row.modality = plain(event.get("version"), 20), plain(event.get("modality"), 20)
            row.cases = {key: count(event.get(key)) for key in ("train", "val", "test")}
        if state in ("lost", "refused"):
            row.cause = cause(event)
            self.messages.append(event)

    def _stage(self, event: dict[str, Any]) -> None:
        stage = plain(event.get("stage"), 40)
        if stage != self.stage:
            self._last_rounds.clear()
        self.stage, self.total = stage, count(event.get("total"))
        self._done.clear()
        self._running()

    def _teach(self, event: dict[str, Any]) -> None:
        row = self._heard(event)
        put(row.dice, TEACHER, event.get("dice"))
        row.seconds = number(event.get("seconds")) or row.seconds
        self._answered(event, row, "teach")

    def _round(self, event: dict[str, Any]) -> None:
        row, arm, round_ = self._heard(event), plain(event.get("arm"), 40), count(event.get("round"))
        self._running()
        # After a resume the replies of the unfinished round are told again. Only those of the newest round can be.
        if self._counted[:2] != (arm, round_):
            self._counted = (arm, round_, set())
        if row.name in self._counted[2]:
            return
        self._counted[2].add(row.name)
        row.round = round_
        row.add_fit(arm, event)

    def _trial(self, event: dict[str, Any]) -> None:
        row, stage = self._heard(event), plain(event.get("stage"), 40)
        self._running()
        search = self.searches.setdefault(stage, SearchRow())
        number_ = count(event.get("number"))
        if event.get("again") and number_ <= search.trials:
            return
        search.trials = number_ or search.trials + 1
        best = number(event.get("best"))
        search.best = search.best if best is None else best
        row.add_fit(stage, event)
        row.round = row.replies[stage] - 1

    def _bench(self, event: dict[str, Any]) -> None:
        row = self._heard(event)
        row.seconds = number(event.get("seconds")) or row.seconds
        self._answered(event, row, "bench")

    def _miss(self, event: dict[str, Any]) -> None:
        row = self._row(event)
        row.cause = cause(event)
        row.misses[row.cause[0]] += 1
        self.messages.append(event)

    def _aggregate(self, event: dict[str, Any]) -> None:
        arm, seconds = plain(event.get("arm"), 40), number(event.get("seconds")) or 0.0
        if not self.total and self.stage != arm:  # omnifed-sim announces no stages
            self.stage = arm
            self._last_rounds.clear()
        self.rounds[arm] = max(self.rounds.get(arm, 0), count(event.get("round")) + 1)
        put(self.means, arm, event.get("dice"))
        before, rounds = self.round_seconds.get(arm, (0.0, 0))
        self.round_seconds[arm] = before + seconds, rounds + 1
        self._last_rounds.append(seconds)

    def _evaluate(self, event: dict[str, Any]) -> None:
        row = self._heard(event)
        arm, which, split = (plain(event.get(key), 40) for key in ("arm", "which", "split"))
        put(row.test, (arm, which, split), event.get("dice"))
        self._answered(event, row, f"evaluate/{arm}/{which}/{split}")

    def _export(self, event: dict[str, Any]) -> None:
        self._answered(event, self._heard(event), f"export/{plain(event.get('arm'), 40)}")

    def _note(self, event: dict[str, Any]) -> None:
        self.messages.append(event)

    def _running(self) -> None:
        """Whoever waits and then works, waits no longer."""
        if self.state == "waiting":
            self.state, self.cause = "resumed", ("", "")

    def _answered(self, event: dict[str, Any], row: SiteRow, what: str) -> None:
        """Counts a reply of a stage once: after a resume all that are kept are told again."""
        if event.get("split") != "val":  # the offer of the averaged model comes before the test
            self._done.add(row.name)
        if (what, row.name) not in self._told:
            self._told.add((what, row.name))
            row.add_bytes(event)


_HANDLERS: dict[str, Callable[[Board, dict[str, Any]], None]] = {
    "campaign": Board._campaign,
    "site": Board._site,
    "stage": Board._stage,
    "teach": Board._teach,
    "bench": Board._bench,
    "trial": Board._trial,
    "search": Board._note,
    "round": Board._round,
    "miss": Board._miss,
    "aggregate": Board._aggregate,
    "evaluate": Board._evaluate,
    "export": Board._export,
    "warning": Board._note,
}
