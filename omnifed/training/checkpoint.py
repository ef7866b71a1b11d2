"""A fit on disk: one atomic file of arrays with a JSON head, from which a killed fit goes on bit for bit."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from omnifed.data.prepared import Prepared
from omnifed.errors import OmniFedError
from omnifed.states import StateFile
from omnifed.training.spec import TrainSpec

log = logging.getLogger(__name__)


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """What a fit changes: parameters that are trained, and buffers. Views of the model, not copies."""
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    return {name: value.detach() for name, value in model.state_dict().items() if name not in frozen}


def copy_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A copy of each tensor, on its device."""
    return {name: value.detach().clone() for name, value in state.items()}


@torch.no_grad()
def restore(target: Mapping[str, Tensor], source: Mapping[str, Tensor]) -> None:
    """Writes ``source`` into the tensors of ``target``, whatever their memory layout."""
    for name, value in target.items():
        value.copy_(source[name].reshape(value.shape))


def fingerprint(spec: TrainSpec, train: Prepared, start: Mapping[str, Tensor]) -> str:
    """sha256 of what makes a fit: settings, images, masks and starting weights: equal for the same fit only."""
    digest = hashlib.sha256(spec.model_dump_json().encode())
    digest.update("\n".join(train.keys).encode())
    for array in (train.has_mask, train.masks):
        digest.update(np.ascontiguousarray(array).tobytes())
    for name in sorted(start):
        digest.update(name.encode())
        digest.update(to_numpy(start[name]).tobytes())
    return digest.hexdigest()


def to_numpy(tensor: Tensor) -> np.ndarray:
    """The tensor as a contiguous array on the CPU."""
    return tensor.detach().cpu().contiguous().numpy()


def save(file: StateFile, groups: Mapping[str, Mapping[str, Tensor]], head: Mapping[str, Any]) -> None:
    """Writes groups of tensors as ``group:name`` with ``head``; mode 0600, as weights derive from patient data.

    Raises:
        OmniFedError: OF103 if the disk is full; the checkpoint before stays.
    """
    tensors = {f"{group}:{name}": to_numpy(value) for group, state in groups.items() for name, value in state.items()}
    file.write(tensors, head)


def load(
    file: StateFile, mark: str, groups: Iterable[str]
) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]] | None:
    """Reads a checkpoint of the fit with fingerprint ``mark``.

    Returns:
        The groups and the head; None where there is no file, or one that is damaged or of another fit: it is then
        logged, and the fit starts from the beginning.

    Raises:
        OmniFedError: OF875 if it is sealed and does not open: what was trained so far is not given up silently.
    """
    path = file.path
    if not path.exists():
        return None
    try:
        tensors, head = file.read()
    except OmniFedError as error:
        if error.code != "OF104":
            raise
        log.warning("Checkpoint %s cannot be read; the fit starts from the beginning. %s", path.name, error)
        return None
    if head.get("fingerprint") != mark:
        log.warning("Checkpoint %s is of another fit; this one starts from the beginning.", path.name)
        return None
    found: dict[str, dict[str, Tensor]] = {group: {} for group in groups}
    for key, array in tensors.items():
        group, _, name = key.partition(":")
        found[group][name] = torch.from_numpy(array)
    return found, head
