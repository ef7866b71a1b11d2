"""What a site does now: one task at a time, and a file that says which."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


class Status:
    """``status.json``: what the site does now, for the view and the metrics."""

    def __init__(self, path: Path) -> None:
        self.path, self._at = path, 0.0
        self._values = {"task": "", "id": "", "done": 0, "total": 0, "text": "", "started": ""}

    def begin(self, kind: str, task_id: str) -> None:
        """A task begins."""
        started = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime())
        self._values |= {"task": kind, "id": task_id, "done": 0, "total": 0, "text": "", "started": started}
        self._write()

    def progress(self, done: int, total: int, text: str) -> None:
        """A step is done; written twice a second at most."""
        self._values |= {"done": done, "total": total, "text": text}
        if time.monotonic() - self._at >= 0.5:
            self._write()

    def clear(self) -> None:
        """Nothing to do."""
        self._values |= {"task": "", "id": "", "done": 0, "total": 0, "text": "", "started": ""}
        self._write()

    def _write(self) -> None:
        self._at = time.monotonic()
        part = self.path.with_suffix(f".{os.getpid()}.part")
        try:
            # Not write_atomic: a view may lose it, and two flushes a second would cost more than the work.
            part.write_text(json.dumps(self._values))
            part.replace(self.path)
        except OSError:
            part.unlink(missing_ok=True)


@contextmanager
def turn(path: Path, task_id: str, cancelled: Callable[[str], None]) -> Iterator[None]:
    """One task at a time. The same task waits for its twin; another one ends it: the coordinator has moved on."""
    told = ""
    with path.open("a+") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                file.seek(0)
                pid, _, running = file.read().partition(" ")
                # Once: a process may take longer to end than this waits.
                if running and running not in (task_id, told) and pid.isdigit():
                    told = running
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(int(pid), signal.SIGTERM)
                        cancelled(running)
                time.sleep(0.2)
        file.truncate(0)
        file.write(f"{os.getpid()} {task_id}")
        file.flush()
        yield
        file.truncate(0)
