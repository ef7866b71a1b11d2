"""What happened, one JSON object a line: the file that views, metrics and reports read."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from omnifed.files import not_written

LONGEST = 1_000_000
"""Bytes; no line is longer."""


class EventLog:
    """One JSON object a line, flushed at once; a line cut off by a crash is dropped at the next start."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._file = path.open("ab")
        whole = _whole_bytes(path)
        if whole < path.stat().st_size:
            self._file.truncate(whole)

    def add(self, event: str, values: dict[str, Any]) -> None:
        """Appends one event.

        Raises:
            OmniFedError: OF103 if the disk is full.
        """
        now = datetime.now(UTC).isoformat(timespec="seconds")
        record = {"time": now, "event": event, **values}
        try:
            self._file.write((json.dumps(record, allow_nan=False, default=float) + "\n").encode())
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise not_written(self.path, error) from None


def _whole_bytes(path: Path) -> int:
    """Bytes up to the end of the last whole line; only the last one can be torn."""
    with path.open("rb") as file:
        start = max(0, file.seek(0, 2) - LONGEST)
        file.seek(start)
        return start + file.read().rfind(b"\n") + 1
