"""Whether brief trainings order networks as long ones do: Kendall's tau. Needs no torch."""

from __future__ import annotations

import numpy as np
from scipy.stats import kendalltau

from omnifed.search.results import Agreement

RESAMPLES = 2000
LEAST = 4
"""Networks below which an interval means nothing."""


def agreement(
    brief: np.ndarray, long: np.ndarray, *, steps: tuple[int, int], full: bool, seed: int = 0
) -> Agreement | None:
    """Kendall's tau-b between two scores of the same networks, with a bootstrap interval over networks.

    Args:
        brief, long: (n,) scores, site effects removed.
        steps: of the brief and of the long trainings.
        full: whether the long ones saw all patients and all rounds' steps.
        seed: of the resampling.

    Returns:
        The agreement; None below two networks. Where all scores of one side are equal, tau is 0.
    """
    n = len(brief)
    if n < 2:
        return None
    low = high = None
    if n >= LEAST:
        rows = np.random.default_rng([seed, n]).integers(0, n, (RESAMPLES, n))
        low, high = (float(v) for v in np.quantile([_tau(brief[row], long[row]) for row in rows], (0.025, 0.975)))
    tau = _tau(brief, long)
    return Agreement(brief=steps[0], long=steps[1], full=full, networks=n, tau=tau, low=low, high=high)


def _tau(a: np.ndarray, b: np.ndarray) -> float:
    if (a == a[0]).all() or (b == b[0]).all():
        return 0.0
    return float(kendalltau(a, b).statistic)
