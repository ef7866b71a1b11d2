"""Fresh weights, drawn tensor by tensor from (seed, key): no running random state, no effect on the global one."""

from __future__ import annotations

import hashlib

import torch
from torch import nn


def initialise(model: nn.Module, seed: int) -> None:
    """Fills all parameters and buffers of ``model`` in place.

    Convolutions and linear layers: He normal (fan in, ReLU), biases 0. Norms: scale 1, shift 0, statistics 0 and 1.
    The second linear layer of a gate (``excite``): 0, so that every gate starts at exactly 1. The head: normal with
    deviation 0.01, so that all classes start out equally likely.

    Args:
        model: convolutions, linear layers, batch and group norms.
        seed: equal seeds give equal tensors for equal keys and shapes, whatever else the model holds.
    """
    with torch.no_grad():
        for name, part in model.named_modules():
            if isinstance(part, nn.Conv2d | nn.Linear):
                if name.endswith(".excite"):
                    nn.init.zeros_(part.weight)
                elif name == "head":
                    nn.init.normal_(part.weight, std=0.01, generator=_generator(seed, name))
                else:
                    nn.init.kaiming_normal_(part.weight, nonlinearity="relu", generator=_generator(seed, name))
                if part.bias is not None:
                    nn.init.zeros_(part.bias)
            elif isinstance(part, nn.BatchNorm2d | nn.GroupNorm):
                part.reset_parameters()


def _generator(seed: int, key: str) -> torch.Generator:
    digest = hashlib.sha256(f"{seed}:{key}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
