"""A lock that the processes of one site or coordinator wait for."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from omnifed.files import not_written


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the lock file ``path`` while the block runs; whoever comes second waits. A process that dies lets go.

    Raises:
        OmniFedError: OF103 if the file cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = path.open("a")
    except OSError as error:
        raise not_written(path, error) from None
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
