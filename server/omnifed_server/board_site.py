"""What a board keeps of one site, and how it reads the fields of an event that may say anything."""

from __future__ import annotations

import math
import re
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

from omnifed.tail import plain

CAMPAIGN_STATES = ("not started", "started", "resumed", "waiting", "finished", "failed", "stopped")
SITE_STATES = ("never seen", "joined", "working", "idle", "lost", "refused")
TEACHER = "teacher"
"""Where a teacher's Dice stands among those of the arms."""

_HISTORY = 32


@dataclass
class SiteRow:
    """What is known of one site.

    Attributes:
        name: registered name.
        state: one of :data:`SITE_STATES`.
        task: kind of the task that it works on, else empty.
        version: of its omnifed; empty before it has joined.
        modality: of its images.
        cases: counts by split (train, val, test).
        arm: arm of the last Dice; a search's stage counts as one.
        round: 0-based round of the last Dice, or trial of a search at this site; -1 before the first.
        dice: last validation Dice by arm, the teacher's under :data:`TEACHER`.
        history: Dice of the last rounds of ``arm``, oldest first.
        test: foreground Dice on the test cases by (arm, which model, split).
        bytes_up: received from it in all replies that count.
        bytes_down: sent to it for them.
        replies: fits that counted, by arm.
        misses: by code.
        cause: code and rule of the last miss, loss or refusal; cleared by nothing, so that it can still be read.
        seconds: of its last work.
    """

    name: str
    state: str = "never seen"
    task: str = ""
    version: str = ""
    modality: str = ""
    cases: dict[str, int] = field(default_factory=dict)
    arm: str = ""
    round: int = -1
    dice: dict[str, float] = field(default_factory=dict)
    history: deque[float] = field(default_factory=lambda: deque(maxlen=_HISTORY))
    test: dict[tuple[str, str, str], float] = field(default_factory=dict)
    bytes_up: int = 0
    bytes_down: int = 0
    replies: Counter[str] = field(default_factory=Counter)
    misses: Counter[str] = field(default_factory=Counter)
    cause: tuple[str, str] = ("", "")
    seconds: float = 0.0

    def add_fit(self, arm: str, event: dict[str, Any]) -> None:
        """Counts one training at the site, a round's or a trial's."""
        if arm != self.arm:
            self.history.clear()
        self.arm = arm
        self.replies[arm] += 1
        if put(self.dice, arm, event.get("dice")):
            self.history.append(self.dice[arm])
        self.seconds = number(event.get("seconds")) or 0.0
        self.add_bytes(event)

    def add_bytes(self, event: dict[str, Any]) -> None:
        """Counts what travelled for one reply."""
        self.bytes_up += count(event.get("bytes_up"))
        self.bytes_down += count(event.get("bytes_down"))


@dataclass
class SearchRow:
    """What is known of one search.

    Attributes:
        trials: told so far.
        best: Dice of the best so far; None before the first.
    """

    trials: int = 0
    best: float | None = None


def cause(event: dict[str, Any]) -> tuple[str, str]:
    """Code and rule; a code that is none of ours counts as "other", since a site may send any text."""
    code, rule = str(event.get("code") or ""), plain(event.get("rule"))
    if not code:
        return "", rule
    return (code if re.fullmatch(r"OF\d{3}", code) else "other"), rule


def number(value: object) -> float | None:
    """A finite number, else None."""
    ok = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if ok else None  # type: ignore[arg-type]


def count(value: object) -> int:
    """A whole number, 0 where there is none."""
    return int(number(value) or 0)


def put(into: dict[Any, float], key: Any, value: object) -> bool:
    """Keeps ``value`` if it is a number; whether it was one."""
    found = number(value)
    if found is not None:
        into[key] = found
    return found is not None
