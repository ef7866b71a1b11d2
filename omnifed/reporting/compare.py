"""Which arm is better than which, by paired differences of the same test cases."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from omnifed.evaluation.score import MEAN
from omnifed.evaluation.statistics import Difference, paired_difference
from omnifed.evaluation.tables import TEACHER
from omnifed.reporting.run import Run

POOLED = "all sites"


@dataclass(frozen=True)
class Comparison:
    """``arm`` minus ``base`` in mean Dice at one site, or over the cases of all."""

    arm: str
    base: str
    site: str
    difference: Difference

    @property
    def verdict(self) -> str:
        """In a word: better or worse where the interval excludes 0, else not shown."""
        d = self.difference
        if d.groups < 2:
            return "one patient: no interval"
        if d.low > 0:
            return "better"
        return "worse" if d.high < 0 else "no difference shown"


def pairs(run: Run) -> list[tuple[str, str]]:
    """Each arm against ``local``, and OmniKD against FedBN, which differs from it by the distillation alone."""
    found = [(arm, "local") for arm in run.arms if arm != "local" and "local" in run.arms]
    return [*found, ("omnikd", "fedbn")] if {"omnikd", "fedbn"} <= set(run.arms) else found


def compare(run: Run, *, seed: int = 0) -> list[Comparison]:
    """All comparisons, pooled first; patients of different sites are different patients.

    Args:
        run: with ``cases.csv``.
        seed: of bootstrap and sign flips.
    """
    values: dict[str, dict[tuple[str, str], float]] = {}
    patients: dict[tuple[str, str], str] = {}
    for row in run.cases:
        if row.label == MEAN and row.metric == "dice" and row.arm != TEACHER:
            values.setdefault(row.arm, {})[row.site, row.case] = row.value
            patients[row.site, row.case] = f"{row.site}/{row.patient}"
    result = []
    for arm, base in pairs(run):
        a, b = values.get(arm, {}), values.get(base, {})
        # A case that one arm alone defines has nothing in truth: the other arm rightly found nothing, which is 1
        # against the false alarm's 0. To leave it out would hide false alarms.
        scored = {site for site, _ in a} & {site for site, _ in b}
        both = sorted(key for key in a.keys() | b.keys() if key[0] in scored)
        sites = [s for s in run.site_names if any(k[0] == s for k in both)]
        for site in [POOLED, *sites] if len(sites) > 1 else sites:
            keys = [k for k in both if site in (POOLED, k[0])]
            difference = paired_difference(
                np.array([a.get(k, 1.0) for k in keys]),
                np.array([b.get(k, 1.0) for k in keys]),
                [patients[k] for k in keys],
                seed=seed,
            )
            result.append(Comparison(arm, base, site, difference))
    return result
