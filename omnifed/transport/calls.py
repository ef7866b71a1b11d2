"""Small messages that a node answers when it is free: a greeting, or whether it has finished something."""

from __future__ import annotations

import time
from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)
LONGEST_S = 3600.0


class Calls(Generic[T]):
    """Calls that are on their way, each for a reason; a reason is called for again, with growing pauses.

    A cut can swallow a call after it has left the coordinator's hands: nobody would ever answer it.

    Args:
        again_s: seconds from the first call for a reason to the second; each pause is twice the one before.
    """

    def __init__(self, again_s: float) -> None:
        self.again_s = again_s
        self.to: dict[str, T] = {}
        self._made: dict[T, list[float]] = {}

    def due(self, reason: T) -> bool:
        """Whether it is time to call, for the first time or again."""
        made = self._made.get(reason)
        return not made or time.monotonic() - made[-1] >= min(LONGEST_S, self.again_s * 2.0 ** min(len(made) - 1, 64))

    def add(self, reason: T, message_id: str) -> None:
        """A call was made; an empty ``message_id`` says that it could not be."""
        if message_id:
            self.to[message_id] = reason
            self._made.setdefault(reason, []).append(time.monotonic())

    def answered(self, message_id: str, *, lost: bool = False, again: bool = False) -> T | None:
        """The reason of the call that was answered, which is then over; None if ``message_id`` is no call.

        Args:
            message_id: of the call.
            lost: it was given up on its way: other calls for the same reason go on.
            again: the answer is none: the pauses go on growing.
        """
        reason = self.to.pop(message_id, None)
        if reason is None or again:
            return reason
        if not lost or reason not in self.to.values():
            self.forget(reason)
        return reason

    def forget(self, reason: T) -> None:
        """Nobody waits for an answer any more."""
        self.to = {message_id: other for message_id, other in self.to.items() if other != reason}
        self._made.pop(reason, None)

    def fresh(self, seconds: float) -> bool:
        """Whether a call is on its way whose reason was first called for less than ``seconds`` ago."""
        return any(time.monotonic() - self._made[reason][0] < seconds for reason in self.to.values())
