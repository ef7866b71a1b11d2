"""AdamW as the paper sets it, its learning rate as a pure function of the step, and its state as named tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from omnifed.training.spec import TrainSpec


def learning_rate(spec: TrainSpec, step: int) -> float:
    """Learning rate at global step ``step``, counted over all rounds of a federation.

    Linear warm-up, then ``cosine``: lr (1 + cos(pi t)) / 2, ``poly``: lr (1 - t)^0.9, with t the share of the steps
    after the warm-up, or ``constant``.
    """
    total = spec.total_steps or spec.first_step + spec.steps
    if step < spec.warmup:
        return spec.lr * (step + 1) / spec.warmup
    share = min(1.0, (step - spec.warmup) / max(1, total - spec.warmup))
    if spec.schedule == "cosine":
        return spec.lr * (1 + math.cos(math.pi * share)) / 2
    return spec.lr * (1 - share) ** 0.9 if spec.schedule == "poly" else spec.lr


def adamw(parameters: Mapping[str, nn.Parameter], spec: TrainSpec) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter, ICLR 2019) over the named parameters, one kernel a step."""
    return torch.optim.AdamW(
        list(parameters.values()), lr=spec.lr, betas=spec.betas, weight_decay=spec.weight_decay, fused=True
    )


def pack(optimiser: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """State of the optimiser as ``{"exp_avg/NAME": tensor, ...}``, on the CPU, apart from the running one."""
    return {
        f"{kind}/{name}": value.detach().to("cpu", copy=True).contiguous()
        for name, parameter in parameters.items()
        for kind, value in optimiser.state.get(parameter, {}).items()
    }


def unpack(
    state: Mapping[str, Tensor], optimiser: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]
) -> None:
    """Puts what :func:`pack` returned back; a parameter without an entry of its shape starts afresh."""
    for name, parameter in parameters.items():
        found = {kind: state.get(f"{kind}/{name}") for kind in ("step", "exp_avg", "exp_avg_sq")}
        step, mean, square = found.values()
        if step is None or mean is None or square is None or mean.shape != parameter.shape:
            continue
        optimiser.state[parameter] = {
            "step": step.detach().clone().reshape(()).to(parameter.device),
            "exp_avg": torch.empty_like(parameter).copy_(mean),
            "exp_avg_sq": torch.empty_like(parameter).copy_(square),
        }
