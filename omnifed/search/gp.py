"""What the searches' Gaussian processes share: seeded draws, priors, scaled kernels."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from gpytorch.constraints import GreaterThan
from gpytorch.kernels import Kernel, ScaleKernel
from gpytorch.priors import LogNormalPrior

LEAST_SE = 0.1
"""Dice points: a reported standard error of 0 (one case) says that it is unknown, not that there is none."""


@contextmanager
def reproducible(seed: Sequence[int]) -> Iterator[None]:
    """The same draws and the same sums whatever ran before and however many threads there are."""
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(np.random.SeedSequence(list(seed)).generate_state(1)[0]))
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def prior(mode: float, spread: float) -> dict[str, Any]:
    """A log-normal prior with its mode there, and the constraint that starts there.

    Args:
        mode: of the hyperparameter.
        spread: standard deviation of its logarithm.
    """
    density = LogNormalPrior(math.log(mode) + spread**2, spread)
    return {"prior": density, "constraint": GreaterThan(1e-4, transform=None, initial_value=mode)}


def scaled(kernel: Kernel, sd: float, spread: float) -> ScaleKernel:
    """``kernel`` times a variance of about ``sd`` ** 2, in Dice points squared; ``spread`` as of :func:`prior`."""
    return ScaleKernel(kernel, **{f"outputscale_{key}": value for key, value in prior(sd**2, spread).items()})
