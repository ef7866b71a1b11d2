"""Between a module's tensors and the named arrays that travel and are stored."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from omnifed.errors import OmniFedError
from omnifed.states import State


def to_state(tensors: nn.Module | Mapping[str, torch.Tensor]) -> State:
    """Copies a module's state dict, or any mapping of tensors, into numpy arrays of the same shapes."""
    items = tensors.state_dict() if isinstance(tensors, nn.Module) else tensors
    return {key: value.detach().cpu().contiguous().numpy().copy() for key, value in items.items()}


def to_tensors(state: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """Arrays to tensors of the same shapes (copies)."""
    return {key: torch.from_numpy(np.array(value)) for key, value in state.items()}


def load_state(module: nn.Module, state: Mapping[str, np.ndarray]) -> None:
    """Overwrites the named entries of a module; the others stay.

    Raises:
        OmniFedError: OF318 for a key that the module lacks, or another shape.
    """
    own = module.state_dict()
    for key, value in state.items():
        if key not in own or tuple(own[key].shape) != tuple(value.shape):
            raise OmniFedError(
                "OF318",
                "A state must fit the student that it is loaded into: same keys, same shapes.",
                seen=f"{key} {tuple(value.shape)}, expected {tuple(own[key].shape) if key in own else 'no such key'}",
                remedy="Use the same student on both sides, or start a new run folder.",
            )
    module.load_state_dict({**own, **to_tensors(state)})
