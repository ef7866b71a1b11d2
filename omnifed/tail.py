"""Reads an event log that another process is writing, for views, metrics and trackers. No torch."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


class Tail:
    """Gives each whole line of a growing file once, as an event.

    The file may not be there yet, may end in half a line, and may be rewritten with the same content (the log drops
    its torn last line when it is opened again). Only where its content before the current place has changed or gone,
    it is read from the start again.

    Args:
        path: ``events.jsonl`` of a run or of a site's state.

    Attributes:
        restarted: whether the last :meth:`read` began at the start of another content; what was folded from the
            earlier events no longer holds.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.restarted = False
        self._place = 0
        self._last = b""
        self._short = -1

    def read(self) -> list[dict[str, Any]]:
        """The events since the last call, in order; lines that are no JSON object are left out."""
        self.restarted = False
        try:
            with self.path.open("rb") as file:
                size = file.seek(0, 2)
                if size < self._place and self._short != size:
                    # Perhaps it is just being rewritten: it is another file only if it is still short next time.
                    self._short = size
                    return []
                self._short = -1
                if not self._same(file, size):
                    self._place, self._last, self.restarted = 0, b"", True
                file.seek(self._place)
                return self._events(file.read())
        except OSError:
            return []

    def _same(self, file: Any, size: int) -> bool:
        """Whether the line before the current place is still the one that was read there."""
        if size < self._place:
            return False
        file.seek(self._place - len(self._last))
        return bool(file.read(len(self._last)) == self._last)

    def _events(self, data: bytes) -> list[dict[str, Any]]:
        whole = data[: data.rfind(b"\n") + 1]
        if not whole:
            return []
        lines = whole.splitlines(keepends=True)
        self._place += len(whole)
        self._last = lines[-1]
        found = []
        for line in lines:
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict):
                found.append(event)
        return found


def plain(value: object, longest: int = 200) -> str:
    """A text that may be shown on any terminal: one line, printable characters only, cut to ``longest``.

    Names and causes come from other machines: an escape sequence among them must not reach a terminal.
    """
    text = "".join(c if c.isprintable() else " " for c in ("" if value is None else str(value)))
    text = " ".join(text.split())
    return text if len(text) <= longest else text[: longest - 1] + "…"


def time_of(event: dict[str, Any]) -> datetime | None:
    """When an event happened, in UTC; None where it does not say."""
    try:
        time = datetime.fromisoformat(str(event.get("time", "")))
    except ValueError:
        return None
    return time if time.tzinfo else time.replace(tzinfo=UTC)
