"""Intervals and tests that respect that the cases of one patient belong together. Needs numpy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

DRAWS = 2000
_EXACT_GROUPS = 14
_FLIPS = 10_000
_CELLS = 4_000_000


@dataclass(frozen=True)
class Interval:
    """A mean over cases with its 95 % interval.

    Attributes:
        mean: over the cases; NaN where there is none.
        low, high: bounds; NaN where there are fewer than two patients: nothing is known of the next patient then.
        n: cases.
        groups: patients.
    """

    mean: float
    low: float
    high: float
    n: int
    groups: int


@dataclass(frozen=True)
class Difference(Interval):
    """A paired difference and the p of the hypothesis that it is symmetric around 0 (NaN below two patients)."""

    p: float


def bootstrap_mean(values: np.ndarray, groups: Sequence[str], *, draws: int = DRAWS, seed: int = 0) -> Interval:
    """Percentile interval of a mean by the cluster bootstrap: patients are drawn, each with all of its cases.

    A draw of G patients with replacement gives sum(s_g) / sum(n_g), with s_g the sum and n_g the number of the
    patient's cases (Davison and Hinkley, 1997, section 3.8); the interval is the 2.5th to 97.5th percentile.

    Args:
        values: (n,) scores; NaN is left out.
        groups: n patients.
        draws: bootstrap draws.
        seed: of the draws.
    """
    sums, counts = _by_group(values, groups)
    n, g = int(counts.sum()), len(sums)
    mean = float(sums.sum() / n) if n else float("nan")
    if g < 2:
        return Interval(mean, float("nan"), float("nan"), n, g)
    rng = np.random.default_rng(seed)
    step = max(1, _CELLS // g)
    means = []
    for start in range(0, draws, step):
        times = rng.multinomial(g, np.full(g, 1 / g), size=min(step, draws - start))
        means.append((times @ sums) / (times @ counts))
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return Interval(mean, float(low), float(high), n, g)


def paired_difference(
    a: np.ndarray, b: np.ndarray, groups: Sequence[str], *, draws: int = DRAWS, seed: int = 0
) -> Difference:
    """Mean of ``a - b`` over the cases that both define, its interval, and p by sign flips of whole patients.

    Under the hypothesis that the two methods are interchangeable, the sum of each patient's differences may change
    its sign; p is the share of sign patterns whose absolute mean is at least the observed one. All 2^G patterns up
    to 14 patients (so p is at least 2 / 2^G); else 10,000 random ones and (1 + hits) / (1 + patterns).

    Args:
        a, b: (n,) scores of the same cases.
        groups: n patients.
        draws: bootstrap draws of the interval.
        seed: of the draws and of the random sign patterns.
    """
    delta = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    interval = bootstrap_mean(delta, groups, draws=draws, seed=seed)
    return Difference(**vars(interval), p=_sign_flip_p(*_by_group(delta, groups), seed=seed))


def _sign_flip_p(sums: np.ndarray, counts: np.ndarray, *, seed: int) -> float:
    g = len(sums)
    if g < 2:
        return float("nan")
    exact = g <= _EXACT_GROUPS
    if exact:
        bits = (np.arange(2**g)[:, None] >> np.arange(g)) & 1
        hits = _hits(1 - 2 * bits, sums)
        return hits / 2**g
    rng = np.random.default_rng((seed, 1))
    step = max(1, _CELLS // g)
    hits = 0
    for start in range(0, _FLIPS, step):
        signs = 2 * rng.integers(0, 2, (min(step, _FLIPS - start), g), dtype=np.int8) - 1
        hits += _hits(signs, sums)
    return (1 + hits) / (1 + _FLIPS)


def _hits(signs: np.ndarray, sums: np.ndarray) -> int:
    """Patterns whose absolute sum reaches the observed one; the tolerance keeps equal sums equal after rounding."""
    bound = abs(float(sums.sum())) - 1e-12 * float(np.abs(sums).sum())
    return int((np.abs(signs @ sums) >= bound).sum())


def _by_group(values: np.ndarray, groups: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Sum and number of the defined values of each group that has any."""
    values = np.asarray(values, np.float64)
    if values.shape != (len(groups),):
        raise ValueError(f"values must be (n,) with n groups, seen {values.shape} and {len(groups)}")
    defined = ~np.isnan(values)
    _, index = np.unique(np.asarray(groups, dtype=str)[defined], return_inverse=True)
    return np.bincount(index, weights=values[defined]), np.bincount(index)
