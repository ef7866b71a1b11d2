"""Named arrays with a JSON head in one safetensors file, written atomically: how all weights are kept on disk.

A file may come from elsewhere or be damaged. Its head is read with a limit and looked through before safetensors sees
it: that library accepts a name that comes twice, and leaves types that numpy lacks to the caller.
"""

from __future__ import annotations

import io
import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load, save

from omnifed.errors import OmniFedError
from omnifed.files import write_atomic
from omnifed.trust import vault

State = dict[str, np.ndarray]
"""Arrays by name: a model's state, an optimiser's, or what travels with a task."""

SEALED = ".sealed"
"""Ending of files that :func:`write_sealed` writes."""
MOST_HEAD = 16 * 2**20
"""Bytes of a file's head: names, types and shapes, and the JSON of who wrote it."""
MOST_AXES = 8
_DTYPES = frozenset({"BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64", "F16", "F32", "F64"})
_WRONG = (OSError, SafetensorError, TypeError, KeyError, ValueError, AttributeError, RecursionError)


def write_state(path: Path, state: Mapping[str, np.ndarray], meta: Mapping[str, Any], *, mode: int = 0o600) -> None:
    """Writes arrays and their JSON head as one file: both are there after a crash, or neither.

    Raises:
        OmniFedError: OF103 if the disk is full.
    """
    write_atomic(path, _content(state, meta), mode=mode)


def read_state(path: Path) -> tuple[State, dict[str, Any]]:
    """Reads what :func:`write_state` wrote.

    Raises:
        OmniFedError: OF104 if the file is absent, damaged or not ours.
    """
    state, meta = read_arrays(path)
    try:
        return state, json.loads(meta["json"])
    except _WRONG as error:
        raise _no_state(path, error) from None


def read_arrays(path: Path) -> tuple[State, dict[str, str]]:
    """Reads any safetensors file.

    Returns:
        The arrays, and the metadata as they stand in the head.

    Raises:
        OmniFedError: OF104 if the file is absent, no regular file, damaged, or holds types that numpy lacks.
    """
    try:
        # Not blocking: a pipe in the place of a file would be waited for.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ValueError("no regular file")
            meta = _head(file)
        with safe_open(path, framework="numpy") as tensors:
            return {key: tensors.get_tensor(key) for key in tensors.keys()}, meta  # noqa: SIM118
    except _WRONG as error:
        raise _no_state(path, error) from None


def write_sealed(
    path: Path, state: Mapping[str, np.ndarray], meta: Mapping[str, Any], key: bytes, purpose: str
) -> None:
    """As :func:`write_state`, encrypted (:mod:`omnifed.trust.vault`) for this purpose and this file name; mode 0600.

    Raises:
        OmniFedError: OF103 if the disk is full, OF875 if the key is none.
    """
    write_atomic(path, vault.seal(key, f"{purpose}/{path.name}", _content(state, meta)), mode=0o600)


def read_sealed(path: Path, key: bytes, purpose: str) -> tuple[State, dict[str, Any]]:
    """Reads what :func:`write_sealed` wrote.

    Raises:
        OmniFedError: OF104 if the file cannot be read, OF875 if it was altered, or sealed with another key, for
            another purpose or under another name.
    """
    try:
        content = vault.open(key, f"{purpose}/{path.name}", path.read_bytes())
        return load(content), json.loads(_head(io.BytesIO(content))["json"])
    except OmniFedError as error:  # names the file: it is what the remedy is about
        raise OmniFedError(error.code, error.rule, seen=f"{path}: {error.seen}", remedy=error.remedy) from None
    except _WRONG as error:
        raise _no_state(path, error) from None


@dataclass(frozen=True)
class StateFile:
    """One file of arrays, for code that need not know whether it lies there in clear.

    Attributes:
        path: of the file.
        key: vault key that seals it, 32 bytes; None for a file in clear.
        purpose: for which it is sealed.
    """

    path: Path
    key: bytes | None = field(default=None, repr=False)
    purpose: str = ""

    def write(self, state: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> None:
        """Writes with :func:`write_sealed` or :func:`write_state`; mode 0600."""
        if self.key is None:
            write_state(self.path, state, meta)
        else:
            write_sealed(self.path, state, meta, self.key, self.purpose)

    def read(self) -> tuple[State, dict[str, Any]]:
        """Reads what :meth:`write` wrote; raises what :func:`read_sealed` or :func:`read_state` raises."""
        return read_state(self.path) if self.key is None else read_sealed(self.path, self.key, self.purpose)

    def take_over(self, clear: Path) -> None:
        """Seals the content of a file that lies in clear, and deletes that; a sealed file that is there is kept.

        Raises:
            OmniFedError: OF103 if the disk is full, OF104 if ``clear`` cannot be read, OF875 if the key is none; the
                file in clear then stays.
        """
        if not self.path.exists():
            try:
                content = clear.read_bytes()
            except OSError as error:
                raise _no_state(clear, error) from None
            write_atomic(
                self.path, vault.seal(self.key or b"", f"{self.purpose}/{self.path.name}", content), mode=0o600
            )
        clear.unlink()


def site_file(folder: Path, path: Path, key: bytes) -> StateFile:
    """A sealed file in a site's state folder; one that was moved or swapped within it does not open.

    Args:
        folder: the state folder.
        path: below it.
        key: of the folder's vault.
    """
    return StateFile(path, key, f"site state/{path.parent.relative_to(folder).as_posix()}")


def _content(state: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> bytes:
    arrays = {key: np.asarray(value, order="C") for key, value in state.items()}
    return save(arrays, metadata={"json": json.dumps(dict(meta), allow_nan=False)})


def _head(file: BinaryIO) -> dict[str, str]:
    """Metadata of a safetensors file, after a look at its head; offsets and sizes are safetensors' own to check."""
    size = int.from_bytes(file.read(8), "little")
    if size > MOST_HEAD:
        raise ValueError(f"a head of {size} bytes")
    head = json.loads(file.read(size), object_pairs_hook=_once)
    meta = head.pop("__metadata__", {})
    for entry in head.values():
        if entry["dtype"] not in _DTYPES or len(entry["shape"]) > MOST_AXES:
            raise ValueError("a type or a shape that no state has")
    return meta


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name comes twice")
    return found


def _no_state(path: Path, error: BaseException) -> OmniFedError:
    return OmniFedError(
        "OF104",
        "A state file must be a whole safetensors file with a head written by OmniFed.",
        seen=f"{path}: {str(error)[:300]}",
        remedy="Delete the damaged file and resume: the work since the last good one is repeated.",
    )


def add_prefix(prefix: str, state: Mapping[str, np.ndarray]) -> State:
    """``{"a": x}`` to ``{"prefix/a": x}``."""
    return {f"{prefix}/{key}": value for key, value in state.items()}


def strip_prefix(prefix: str, state: Mapping[str, np.ndarray]) -> State:
    """The entries below ``prefix/``, without it."""
    start = prefix + "/"
    return {key.removeprefix(start): value for key, value in state.items() if key.startswith(start)}
