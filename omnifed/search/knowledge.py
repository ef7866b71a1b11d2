"""What a trial is worth to who must choose one network in the end. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(21)
"""Gauss-Hermite quadrature of a standard normal, once its weights are divided by their sum."""


def knowledge_gradient(
    mean: np.ndarray,
    covariance: np.ndarray,
    noise: float,
    choice: Sequence[int] | np.ndarray,
    going: Sequence[int],
    trials: Sequence[int],
) -> np.ndarray:
    """How much each of some trials would raise the highest expected Dice: E[max_i m_i'] - max_i m_i.

    m' is the mean after the trial: m_i + Z cov(f_i, y) / sd(y) with Z standard normal (Frazier, Powell and Dayanik,
    INFORMS Journal on Computing 2009). Trials on their way make the process surer and do not move it.

    Args:
        mean: (n,) of the networks to choose from and of what trials would measure, in Dice points.
        covariance: (n, n) of these, without noise.
        noise: variance of a trial, points squared.
        choice: positions of the networks to choose from.
        going: positions of the trials on their way.
        trials: (k,) positions of those to weigh.

    Returns:
        (k,) Dice points.
    """
    for at in going:
        known = covariance[:, at] / np.sqrt(covariance[at, at] + noise)
        covariance = covariance - np.outer(known, known)
    best = mean[choice].max()
    moves = covariance[choice][:, trials] / np.sqrt(np.diag(covariance)[trials] + noise)
    highest = [(mean[choice][:, None] + move[:, None] * NODES).max(0) for move in moves.T]
    return np.array(highest).reshape(-1, len(NODES)) @ (WEIGHTS / WEIGHTS.sum()) - best
