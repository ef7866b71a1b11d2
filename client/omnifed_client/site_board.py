"""The state of a site, folded from its own log: what its view and its metrics show. No torch."""

from __future__ import annotations

import json
import threading
from collections import Counter, deque
from datetime import datetime
from pathlib import Path
from typing import Any

from omnifed.tail import Tail, plain, time_of

CONNECTIONS = ("starting", "connected", "away", "refused", "stopped")
TASK_STATES = ("started", "finished", "failed", "again", "cancelled")

_SHOWN = 6


class SiteBoard:
    """The state of a site, read from its state folder, and its connection, told by the supervisor.

    Args:
        site: registered name.
        state: the site's state folder (``status.json``, ``events.jsonl``).
        server: the coordinator's address, shown only.

    Attributes:
        connection: one of :data:`CONNECTIONS`.
        cause: number and rule where there is no connection.
        tasks: how often, by (kind, state).
        seconds: sum and number of finished tasks by kind.
        task: kind of the task at hand, else empty.
        started: when it began.
        done, total: its steps; 0 of 0 before it has said so.
        text: what it does.
        last: the last ended tasks.
        lock: held while anything changes; a reader in another thread holds it, too.
    """

    def __init__(self, site: str, state: Path, server: str = "") -> None:
        self.site, self.server = site, server
        self.connection, self.cause = "starting", ""
        self.lock = threading.RLock()
        self._status, self._tail = state / "status.json", Tail(state / "events.jsonl")
        self._forget()
        self._idle()

    def connect(self, connection: str, cause: str = "") -> None:
        """Says how the connection is.

        Args:
            connection: one of :data:`CONNECTIONS`.
            cause: number and rule, where it is not good.
        """
        with self.lock:
            self.connection, self.cause = connection, plain(cause)

    def refresh(self) -> list[dict[str, Any]]:
        """Reads what is new in the state folder; the new events, in order, for a log."""
        with self.lock:
            events = self._tail.read()
            if self._tail.restarted:
                self._forget()
            for event in events:
                self._add(event)
            self._read_status()
        return events

    def _forget(self) -> None:
        self.tasks: Counter[tuple[str, str]] = Counter()
        self.seconds: dict[str, tuple[float, int]] = {}
        self.last: deque[dict[str, Any]] = deque(maxlen=_SHOWN)

    def _idle(self) -> None:
        self.task, self.text, self.done, self.total = "", "", 0, 0
        self.started: datetime | None = None

    def _add(self, event: dict[str, Any]) -> None:
        kind, state = plain(event.get("kind"), 20), event.get("state")
        if event.get("event") != "task" or state not in TASK_STATES:
            return
        self.tasks[kind, str(state)] += 1
        if state != "started":
            self.last.append(event)
        if state == "finished":
            total, number = self.seconds.get(kind, (0.0, 0))
            self.seconds[kind] = total + seconds_of(event), number + 1

    def _read_status(self) -> None:
        try:
            status = json.loads(self._status.read_bytes())
            self.task, self.text = plain(status["task"], 20), plain(status["text"], 60)
            self.done, self.total = int(status["done"]), int(status["total"])
            self.started = time_of({"time": status["started"]})
        except (OSError, ValueError, KeyError, TypeError):
            self._idle()  # not there yet, or just being replaced: the next look tells


def seconds_of(event: dict[str, Any]) -> float:
    """How long a task took; 0 where the event does not say."""
    value = event.get("seconds")
    return float(value) if isinstance(value, int | float) else 0.0
