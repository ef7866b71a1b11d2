"""The file that was opened last, for the next question about it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Keep(Generic[T]):
    """Holds one value; another file's is dropped before the new one is made, so that memory holds one at a time."""

    def __init__(self) -> None:
        self._key: Any = None
        self._value: T | None = None

    def get(self, path: Path, make: Callable[[], T], *more: Any) -> T:
        """The kept value, if it is of this file, unchanged, and of the same ``more``; else what ``make`` gives.

        The inode and its own time tell: the time of a file's change can be set, and a relative path names another file
        elsewhere.
        """
        stat = path.stat()
        key = (stat.st_dev, stat.st_ino, stat.st_ctime_ns, stat.st_size, *more)
        if self._value is None or key != self._key:
            self._value = None
            self._value, self._key = make(), key
        return self._value
