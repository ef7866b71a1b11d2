"""Named arrays with a JSON head in one safetensors file, written atomically: how all weights are kept on disk."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from omnifed.errors import OmniFedError
from omnifed.files import write_atomic

State = dict[str, np.ndarray]
"""Arrays by name: a model's state, an optimiser's, or what travels with a task."""


def write_state(path: Path, state: Mapping[str, np.ndarray], meta: Mapping[str, Any], *, mode: int = 0o600) -> None:
    """Writes arrays and their JSON head as one file: both are there after a crash, or neither.

    Raises:
        OmniFedError: OF103 if the disk is full.
    """
    arrays = {key: np.asarray(value, order="C") for key, value in state.items()}
    write_atomic(path, save(arrays, metadata={"json": json.dumps(dict(meta), allow_nan=False)}), mode=mode)


def read_state(path: Path) -> tuple[State, dict[str, Any]]:
    """Reads what :func:`write_state` wrote.

    Raises:
        OmniFedError: OF104 if the file is absent, damaged or not ours.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, json.loads(file.metadata()["json"])  # noqa: SIM118
    except (OSError, SafetensorError, TypeError, KeyError, ValueError) as error:
        raise OmniFedError(
            "OF104",
            "A state file must be a whole safetensors file with a head written by OmniFed.",
            seen=f"{path}: {error}",
            remedy="Delete the damaged file and resume: the work since the last good one is repeated.",
        ) from None


def add_prefix(prefix: str, state: Mapping[str, np.ndarray]) -> State:
    """``{"a": x}`` to ``{"prefix/a": x}``."""
    return {f"{prefix}/{key}": value for key, value in state.items()}


def strip_prefix(prefix: str, state: Mapping[str, np.ndarray]) -> State:
    """The entries below ``prefix/``, without it."""
    start = prefix + "/"
    return {key.removeprefix(start): value for key, value in state.items() if key.startswith(start)}
