"""Which trainings are done and which are under way, so that several processes share one folder and can be stopped."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edge.networks import folder_name


def run_file(out: Path, network: str, seed: int) -> Path:
    """The JSON file of a training; its weights lie beside it with the suffix ``.safetensors``."""
    return out / folder_name(network) / f"seed-{seed}.json"


@contextmanager
def claim(file: Path) -> Iterator[bool]:
    """Whether this process may make ``file``: it is not there, and no living process is making it.

    A lock file with this process's id holds the others off; that of a dead process is taken over.
    """
    lock = file.with_suffix(".lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    if file.is_file() or not _lock(lock):
        yield False
        return
    try:
        yield not file.is_file()
    finally:
        lock.unlink(missing_ok=True)


def _lock(lock: Path) -> bool:
    for _ in range(2):
        try:
            handle = os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            if _alive(lock):
                return False
            lock.unlink(missing_ok=True)
        else:
            with os.fdopen(handle, "w") as file:
                file.write(str(os.getpid()))
            return True
    return False


def _alive(lock: Path) -> bool:
    try:
        os.kill(int(lock.read_text()), 0)
    except PermissionError:
        return True
    except (OSError, ValueError):
        return False
    return True
