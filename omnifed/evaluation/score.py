"""What leaves a site after an evaluation: one number a class and metric, never a case. Needs no torch."""

from __future__ import annotations

from typing import Literal

from omnifed.config import Frozen

MEAN = "mean"
"""Label of the foreground mean of a case: the mean over the foreground classes that the case defines."""

SUPPRESSED = "suppressed"
"""In place of a metric's name: a class whose scores rest on too few cases to leave the site. ``mean`` is the number of
cases that it would take, ``n`` is 0. Readers that look for a metric by name, of any release, pass over it."""

Metric = Literal["dice", "iou", "hd95", "nsd"]
METRICS: tuple[Metric, ...] = ("dice", "iou", "hd95", "nsd")


class Score(Frozen):
    """One metric of one class over the cases that define it.

    Attributes:
        metric: one of :data:`METRICS`, or :data:`SUPPRESSED`.
        label: a foreground label's name, or :data:`MEAN`.
        mean: over cases.
        ci_low, ci_high: 95 % interval, bootstrap by patient; None where there are fewer than two patients.
        n: cases that define the value (a class absent from both truth and prediction does not count).
        unit: ``mm`` or ``px`` for ``hd95``, else empty.
    """

    metric: str
    label: str
    mean: float
    ci_low: float | None
    ci_high: float | None
    n: int
    unit: Literal["", "mm", "px"] = ""
