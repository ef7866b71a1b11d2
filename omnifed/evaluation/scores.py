"""From scores of cases, which stay at the site, to the few numbers that leave it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from omnifed.evaluation.metrics import CaseScores
from omnifed.evaluation.score import MEAN, Score
from omnifed.evaluation.statistics import bootstrap_mean


def foreground(cases: CaseScores, labels: Sequence[str]) -> dict[str, np.ndarray]:
    """Values by label: (N, M) of each foreground class, and of :data:`~omnifed.evaluation.score.MEAN`.

    Args:
        cases: scores of N cases.
        labels: all label names of the site, background first.

    Returns:
        Label to values; the mean of a case runs over the classes that the case defines (NaN where there is none).
    """
    if len(labels) != cases.values.shape[1] + 1:
        raise ValueError(f"{len(labels)} labels, but scores of {cases.values.shape[1]} foreground classes")
    defined = ~np.isnan(cases.values)
    sums, counts = np.where(defined, cases.values, 0.0).sum(1), defined.sum(1)
    mean = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
    return {**{label: cases.values[:, k] for k, label in enumerate(labels[1:])}, MEAN: mean}


def summarise(cases: CaseScores, labels: Sequence[str], seed: int = 0) -> tuple[Score, ...]:
    """Mean and 95 % interval (bootstrap by patient) of each foreground class and metric, and of the foreground mean.

    Args:
        cases: scores of N cases.
        labels: all label names of the site, background first.
        seed: of the bootstrap.

    Returns:
        One score a label and metric, classes by id and the mean last; a class that no case defines has none.
    """
    scores = []
    for label, values in foreground(cases, labels).items():
        for m, metric in enumerate(cases.metrics):
            interval = bootstrap_mean(values[:, m], cases.patients, seed=seed)
            if interval.n:
                known = interval.groups > 1
                scores.append(
                    Score(
                        metric=metric,
                        label=label,
                        mean=interval.mean,
                        ci_low=interval.low if known else None,
                        ci_high=interval.high if known else None,
                        n=interval.n,
                        unit=cases.unit if metric == "hd95" else "",
                    )
                )
    return tuple(scores)
