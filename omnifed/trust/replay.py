"""Which messages a site has taken already: none is taken twice, and none that is older than what can be remembered."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path

from pydantic import Field, ValidationError

from omnifed.config import Frozen
from omnifed.errors import OmniFedError
from omnifed.files import write_atomic

REMEMBERED = 1000
"""Numbers that are kept. Those below the lowest are refused unseen; a message is never overtaken by so many others."""
AHEAD = timedelta(seconds=310)
"""How far a message may come from the future. Flower's own check of a node lets a site's clock lag by 305 s; a clock
that is further off never connects."""
LONGEST = timedelta(days=7)
"""How old a message may be: it may wait for as long at a busy site. Two keys of a coordinator overlap by as much."""


class Taken(Frozen):
    """``replay.json``.

    Attributes:
        floor: numbers up to it are refused.
        numbers: taken, above the floor, in rising order.
    """

    floor: int = Field(ge=0)
    numbers: tuple[int, ...] = ()


class Replay:
    """The numbers of the messages that a site has taken, on disk before one counts. Its caller holds a lock.

    Args:
        path: of the file. Where there is none yet, nothing that is older than :data:`AHEAD` is taken, so that a file
            that was removed opens no door to older messages.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def take(self, number: int) -> None:
        """Notes a message.

        Args:
            number: of its envelope.

        Raises:
            OmniFedError: OF819 if it was taken before, or might have been; OF103 if that cannot be written.
        """
        taken = self._read()
        if number <= taken.floor:
            raise stale("older than what this site remembers")
        if number in taken.numbers:
            raise stale("taken before")
        numbers = sorted([*taken.numbers, number])
        floor = max([taken.floor, *numbers[:-REMEMBERED]])
        now = Taken(floor=floor, numbers=tuple(numbers[-REMEMBERED:]))
        write_atomic(self.path, now.model_dump_json().encode(), mode=0o600)

    def _read(self) -> Taken:
        if not self.path.is_file():
            return Taken(floor=time.time_ns() - int(AHEAD.total_seconds() * 1e9))
        try:
            return Taken.model_validate_json(self.path.read_bytes())
        except ValidationError:
            raise stale(f"{self.path} is damaged") from None


def stale(seen: str) -> OmniFedError:
    """The error of a message that is not taken because of its age or number."""
    return OmniFedError(
        "OF819",
        "A message is taken once, and while it is fresh.",
        seen=seen,
        remedy="Compare the clocks (omnifed-client doctor). Otherwise somebody sends old messages again: tell the "
        "coordinator's operator.",
    )
