"""Files that survive a crash: written aside, flushed to disk, renamed. The only way the framework writes state."""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omnifed.errors import OmniFedError


def write_atomic(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Replaces ``path`` by ``data``: after a crash either the old or the new file is there, never half of one.

    Args:
        path: target; its folder is made.
        data: whole content.
        mode: permission bits (0o600 for what derives from patient data).

    Raises:
        OmniFedError: OF103 if the disk is full or not writable; the old file is untouched.
    """
    name = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, mode)
        os.replace(name, path)
        sync_folder(path.parent)
    except OSError as error:
        if name:
            Path(name).unlink(missing_ok=True)
        raise not_written(path, error) from None


def not_written(path: Path, error: OSError) -> OmniFedError:
    """The error of a file that could not be written."""
    return OmniFedError(
        "OF103",
        "State must be written to disk before work goes on; the last good state is kept.",
        seen=f"{path}: {error.strerror or error}",
        remedy="Free disk space or permit writing there, then start the same command again (omnifed-sim: --resume).",
    )


def write_json(path: Path, value: Any, *, mode: int = 0o644) -> None:
    """Writes ``value`` as JSON with :func:`write_atomic`; NaN is refused, as no JSON reader takes it."""
    write_atomic(path, json.dumps(value, indent=1, allow_nan=False).encode(), mode=mode)


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


def sync_folder(folder: Path) -> None:
    """Waits until the disk has the names in a folder."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
