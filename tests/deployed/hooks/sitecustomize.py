"""Put on PYTHONPATH: kills the coordinator's application right before and right after each file that it writes.

Python imports this by its name in every process; only Flower's ``flwr-serverapp`` is meant. ``OMNIFED_TEST_KILLS`` is
the file in which each point is noted before the kill, so that each kills once.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

UNKNOWN = "before coordinator.json"
"""The one point after which the supervisor waits for two minutes: it does not know yet whom to watch."""


def _install() -> None:
    run, notes = Path(os.environ["OMNIFED_TEST_RUN"]), Path(os.environ["OMNIFED_TEST_KILLS"])
    replace = os.replace
    known = set(notes.read_text().splitlines()) if notes.is_file() else set()

    def point(when: str, path: Path) -> None:
        name = f"{when} {path.relative_to(run)}"
        if name in known or name == UNKNOWN:
            return
        with notes.open("a") as file:
            file.write(name + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.kill(os.getpid(), signal.SIGKILL)

    def killing(source: str, target: str | Path, **options: int) -> None:
        path = Path(target)
        inside = path.is_relative_to(run)
        if inside:
            point("before", path)
        replace(source, target, **options)
        if inside:
            point("after", path)

    os.replace = killing


# This file is imported before ``sys.argv`` is set; the arguments are there, though.
if "OMNIFED_TEST_KILLS" in os.environ and any("flwr-serverapp" in part for part in sys.orig_argv):
    _install()
