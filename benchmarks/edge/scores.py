"""Dice of trained networks from the rows that `edge_dice.py` wrote: means and paired differences by patient."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from edge.runs import run_file

from omnifed.evaluation.statistics import Difference, Interval, bootstrap_mean, paired_difference


class Case(NamedTuple):
    """A test case of one seed."""

    seed: int
    site: str
    case: str


class Scored(NamedTuple):
    """Dice of a case, averaged over the labels in truth or prediction, and whose it is."""

    dice: float
    patient: str


Scores = dict[Case, Scored]


def by_case(rows: Iterable[Mapping[str, Any]], seed: int, split: str = "test") -> Scores:
    """Scores of one training from its rows (:func:`edge.sites.case_rows`)."""
    labels: dict[tuple[Case, str], list[float]] = defaultdict(list)
    for row in rows:
        if row["split"] == split:
            labels[Case(seed, row["site"], row["case"]), row["patient"]].append(row["dice"])
    return {case: Scored(float(np.mean(values)), patient) for (case, patient), values in labels.items()}


def read_scores(out: Path, network: str, seeds: Iterable[int], split: str = "test") -> Scores:
    """Scores of a network over those of the seeds whose training is done."""
    found: Scores = {}
    for seed in seeds:
        file = run_file(out, network, seed)
        if file.is_file():
            found |= by_case(json.loads(file.read_bytes())["cases"], seed, split)
    return found


def mean(scores: Scores, site: str | None = None) -> Interval:
    """Mean Dice over cases and seeds, of one site or of all; patients are drawn for the interval."""
    cases = [case for case in scores if site in (None, case.site)]
    return bootstrap_mean(np.array([scores[case].dice for case in cases]), _groups(scores, cases))


def difference(first: Scores, second: Scores, site: str | None = None) -> Difference:
    """First minus second over the cases and seeds that both have, of one site or of all."""
    cases = [case for case in first if case in second and site in (None, case.site)]
    a, b = (np.array([scores[case].dice for case in cases]) for scores in (first, second))
    return paired_difference(a, b, _groups(first, cases))


def _groups(scores: Scores, cases: Sequence[Case]) -> list[str]:
    # A patient of several seeds' test sets is one: the seeds are no new patients.
    return [f"{case.site}/{scores[case].patient}" for case in cases]
