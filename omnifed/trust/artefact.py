"""Reading a file that came from elsewhere: itself and no link, a regular file, of a size that it may have."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from omnifed.errors import OmniFedError


def read_regular(path: Path, most: int) -> bytes:
    """The content of a file, read once.

    Args:
        path: a link in its place is not followed: what it points to may change after it was checked.
        most: bytes that it may have.

    Raises:
        OmniFedError: OF870 if it is absent, a link, a folder, a pipe or a device, or larger.
    """
    try:
        # Not blocking: a pipe in the place of a file would be waited for.
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            about = os.fstat(file.fileno())
            if not stat.S_ISREG(about.st_mode):
                raise _no_file(path, "no regular file")
            data = file.read(most + 1) if about.st_size <= most else b""
    except OSError as error:
        raise _no_file(path, "a link" if error.errno == errno.ELOOP else error.strerror or str(error)) from None
    if about.st_size > most or len(data) > most:
        raise _no_file(path, f"{about.st_size} bytes, at most {most}")
    return data


def _no_file(path: Path, why: str) -> OmniFedError:
    return OmniFedError(
        "OF870",
        "What is verified is a regular file, no link, of a size that such a file may have.",
        seen=f"{path}: {why}",
        remedy="Name the file itself, and copy it to this machine first.",
    )
