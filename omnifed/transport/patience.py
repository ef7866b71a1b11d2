"""How long a coordinator waits: for sites that are away, for replies, and when it gives up."""

from __future__ import annotations

import statistics
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass

from omnifed.federation.tasks import Task


@dataclass(frozen=True)
class Patience:
    """How a pool waits. The zeros of the default belong to a grid in the same process, where nobody comes back.

    Attributes:
        join_s: seconds that a site which was lost at work has to come back; one that was away at the start of a round
            is asked if it comes, and never waited for.
        wait_s: seconds that too few sites are waited for.
        roll_call_s: seconds between two looks at who is connected.
        ping_s: a site that works for longer is asked now and then, with growing pauses, whether it is free: if it is,
            its reply was lost on the way and the task is sent again.
        tries: how often a task is sent to a site that loses it.
    """

    join_s: float = 0.0
    wait_s: float = 0.0
    roll_call_s: float = 0.0
    ping_s: float = 0.0
    tries: int = 1


DEPLOYED = Patience(join_s=30.0, wait_s=3600.0, roll_call_s=2.0, ping_s=20.0, tries=10)
"""Between real machines: a restarted node is back within some 10 s; ten losses of one task are no accident."""


class Pace:
    """Deadlines from measured times: ``factor`` times the slowest site's usual time for such a task.

    A first task of its kind has no history: it is limited as soon as half of the sites have answered it, by the
    slowest of these.

    Args:
        factor: of the slowest usual time.
        floor_s: no deadline is shorter.
    """

    def __init__(self, factor: float = 5.0, floor_s: float = 120.0) -> None:
        self.factor, self.floor_s = factor, floor_s
        self._seconds: dict[tuple[str, str], dict[str, deque[float]]] = defaultdict(dict)

    def note(self, task: Task, site: str, seconds: float) -> None:
        """A site answered ``task`` after ``seconds``."""
        self._seconds[task.kind, task.arm].setdefault(site, deque(maxlen=5)).append(seconds)

    def limit(self, task: Task, answered: Sequence[float], asked: int) -> float | None:
        """Seconds after which a reply to ``task`` is late; None while nothing is known.

        Args:
            task: what was asked.
            answered: seconds of the sites that have answered in this round.
            asked: sites in this round.
        """
        usual = [statistics.median(times) for times in self._seconds[task.kind, task.arm].values()]
        if len(answered) * 2 >= asked:
            usual += answered
        return max(self.floor_s, self.factor * max(usual)) if usual else None
