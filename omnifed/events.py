"""What happened, one JSON object a line: the file that views, metrics and reports read."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


class EventLog:
    """RUN/events.jsonl: one JSON object a line, flushed at once; a line cut off by a crash is dropped on reading."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            whole = [line for line in path.read_text(encoding="utf-8").splitlines() if _whole(line)]
            path.write_text("".join(f"{line}\n" for line in whole), encoding="utf-8")
        self._file = path.open("a", encoding="utf-8")

    def add(self, event: str, values: dict[str, Any]) -> None:
        """Appends one event."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        record = {"time": now, "event": event, **values}
        self._file.write(json.dumps(record, allow_nan=False, default=float) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())


def _whole(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False
