"""Least squares of relative errors with non-negative coefficients. numpy alone: the base install has no scipy."""

from __future__ import annotations

from itertools import combinations

import numpy as np

HOLD = 0.002
"""Weight of the pattern against the mean squared relative error: moves a prediction by about a percent where a device's
proportions are four times others."""


def fit_relative(rows: np.ndarray, seen: np.ndarray, pattern: np.ndarray) -> np.ndarray:
    """Non-negative coefficients c that minimise mean((rows c / seen - 1)^2) + HOLD mean((c / (s pattern) - 1)^2).

    s is the speed at which the pattern itself fits best. The minimum is the least-squares solution on its own support,
    so that with these few coefficients trying every support is exact and needs no solver.

    Args:
        rows: (n, k), non-negative.
        seen: (n,), positive.
        pattern: (k,), positive.

    Returns:
        (k,), in the units of ``pattern``.
    """
    n, k = rows.shape
    scaled = rows * pattern / seen[:, None]
    alike = scaled.sum(1)
    speed = alike.sum() / (alike @ alike)
    design = np.vstack([scaled * speed / np.sqrt(n), np.sqrt(HOLD / k) * np.eye(k)])
    goal = np.concatenate([np.full(n, 1 / np.sqrt(n)), np.full(k, np.sqrt(HOLD / k))])
    best, least = np.zeros(k), np.inf
    for support in (list(s) for size in range(1, k + 1) for s in combinations(range(k), size)):
        found = np.zeros(k)
        found[support] = np.linalg.lstsq(design[:, support], goal, rcond=None)[0]
        loss = float(((design @ found - goal) ** 2).sum())
        if found.min() >= 0 and loss < least:
            best, least = found, loss
    return best * speed * pattern
