"""Waiting for another process or thread: as long as a busy machine may need, as only a failure waits so long."""

from __future__ import annotations

import time
from collections.abc import Callable

LONG_S = 120.0


def until(done: Callable[[], object], seconds: float = LONG_S) -> None:
    """Returns once ``done()`` is true; fails the test if it never is."""
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)
