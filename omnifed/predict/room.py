"""Is there a place to write to? Asked before the work, not after it."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from omnifed.errors import OmniFedError


def writable(folder: Path) -> None:
    """Makes a folder and writes a file without a name there.

    Raises:
        OmniFedError: OF623.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0" * 4096)
    except OSError as error:
        raise _no_place(f"{folder}: {error.strerror or error}") from None


def need_room(folder: Path, size: int) -> None:
    """Checks that a disk has room.

    Args:
        folder: on the disk.
        size: bytes.

    Raises:
        OmniFedError: OF623.
    """
    free = shutil.disk_usage(folder).free
    if free < size:
        raise _no_place(f"{os.fspath(folder)}: {free / 2**20:.0f} MiB free, {size / 2**20:.0f} MiB needed")


def _no_place(seen: str) -> OmniFedError:
    return OmniFedError(
        "OF623",
        "The output folder must be writable and have room for the predictions.",
        seen=seen,
        remedy="Name another --output, permit writing there, or free disk space.",
    )
