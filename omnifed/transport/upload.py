"""A reply's way to the SuperLink, made safe to repeat.

Flower repeats a request that a cut has interrupted, but the SuperLink refuses an object that it has already: where only
the answer was lost, the SuperNode then gave up the reply, and the coordinator waited three minutes for the rest of it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

TRIES = 5
"""Of one object, each after Flower's own repetitions of its request."""


class Upload:
    """The replies of one SuperNode, one after the other.

    Args:
        send: announces a reply; gives the objects that the SuperLink lacks, and a session for them.
        push_object: pushes one object of a session.
        refused: the exception of an object that the SuperLink did not take.
    """

    def __init__(self, send: Callable[..., Any], push_object: Callable[..., Any], refused: type[Exception]) -> None:
        self._send, self._push_object, self._refused = send, push_object, refused
        self._lock = threading.Lock()
        self._announced: tuple[Any, ...] = ()
        self._missing: set[str] = set()
        self._session = ""

    def send(self, *announced: Any) -> tuple[set[str], str]:
        """Announces a reply."""
        self._announced = announced
        self._missing, self._session = self._send(*announced)
        return self._missing, self._session

    def push_object(self, run_id: int, session: str, object_id: str, content: bytes) -> None:
        """Pushes an object; refused, it asks what the SuperLink still lacks before it says so.

        Called by several threads, as Flower pushes objects side by side.
        """
        for last in (False,) * (TRIES - 1) + (True,):
            session = self._session
            try:
                self._push_object(run_id, session, object_id, content)
                return
            except self._refused:
                if last:
                    raise
            with self._lock:
                if session == self._session:  # else another thread has asked meanwhile
                    missing, session = self._send(*self._announced)
                    if not missing:
                        # It has come, or the coordinator has begun to take the reply: it can no longer be announced,
                        # but the session that it has is still good for the other objects.
                        return
                    self._missing, self._session = missing, session
                if object_id not in self._missing:
                    return


def repeatable(push_messages: Callable[..., None]) -> Callable[..., None]:
    """Flower's ``_push_messages`` with :class:`Upload` below it."""
    from flwr.supercore.inflatable.inflatable_utils import ObjectPushError

    def pushed(*, send: Callable[..., Any], push_object: Callable[..., Any], **stores: Any) -> None:
        upload = Upload(send, push_object, ObjectPushError)
        push_messages(send=upload.send, push_object=upload.push_object, **stores)

    return pushed
