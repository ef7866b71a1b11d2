"""Pareto fronts of Dice against latency, and the area that they dominate. Needs no torch."""

from __future__ import annotations

import numpy as np


def front(dice: np.ndarray, latency: np.ndarray) -> np.ndarray:
    """Positions of the networks than which none is both as fast and better, fastest first.

    Args:
        dice: (n,) to be large.
        latency: (n,) to be small.

    Returns:
        (k,) positions; of equals the first.
    """
    order = np.lexsort((-dice, latency))
    best, found = -np.inf, []
    for i in order:
        if dice[i] > best:
            best = dice[i]
            found.append(i)
    return np.array(found, dtype=int)


def hypervolume(dice: np.ndarray, latency: np.ndarray, worst: tuple[float, float]) -> float:
    """Area between the front and a reference point.

    Args:
        dice: (n,).
        latency: (n,).
        worst: the reference point's Dice and latency; what is worse in either counts nothing.
    """
    inside = (dice > worst[0]) & (latency < worst[1])
    dice, latency = dice[inside], latency[inside]
    if not len(dice):
        return 0.0
    best = front(dice, latency)
    until = np.append(latency[best][1:], worst[1])
    return float(((until - latency[best]) * (dice[best] - worst[0])).sum())


def gains(
    dice: np.ndarray, latency: np.ndarray, have: np.ndarray, candidates: np.ndarray, worst: tuple[float, float]
) -> np.ndarray:
    """How much each candidate alone would add to the hypervolume.

    Args:
        dice, latency: (n,) of all networks.
        have: positions of those that count already.
        candidates: (k,) positions.
        worst: as of :func:`hypervolume`.

    Returns:
        (k,) areas.
    """
    best = have[front(dice[have], latency[have])] if len(have) else have
    before = hypervolume(dice[best], latency[best], worst)
    joined = [np.append(best, one) for one in candidates]
    return np.array([hypervolume(dice[one], latency[one], worst) - before for one in joined])
