"""What became of each network in a search: the rungs it reached, where it failed, its scores. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from omnifed.search.space import Space
from omnifed.search.trials import History, Observation, Trial

PULL = 0.1
"""How strongly effects are held to 0, in observations of one Dice point of noise: what is not told stays undecided."""


class Asked:
    """A history by position of network.

    Args:
        history: what was asked and told.
        more: trials asked since, on their way.
        space: the networks.
        rungs: steps of each fidelity.
        fraction: of the trials that belong to a rung.
    """

    def __init__(
        self, history: History, more: Sequence[Trial], space: Space, rungs: Sequence[int], fraction: float
    ) -> None:
        self._space, self._rungs, self._fraction = space, rungs, fraction
        told = [seen.trial for seen in history.told]
        going = [*history.pending, *more]
        self.told = [self._of(told, rung) for rung in range(len(rungs))]
        """Networks by rung that have a score there, with the sites that gave it."""
        self.asked = [self._of([*told, *going], rung) for rung in range(len(rungs))]
        """The same with those on their way."""
        self.going = [self._of(going, rung) for rung in range(len(rungs))]
        """Those on their way alone."""
        self.seen = {at for rung in self.asked for at in rung}
        self._failed = {(trial.key, trial.site) for trial in history.failed}

    def _of(self, trials: Sequence[Trial], rung: int) -> dict[int, set[str]]:
        found: dict[int, set[str]] = {}
        for trial in trials:
            here = (trial.steps, trial.fraction) == (self._rungs[rung], self._fraction) and trial.why != "full"
            if here and trial.key in self._space.index:
                found.setdefault(self._space.index[trial.key], set()).add(trial.site)
        return found

    def failed(self, at: int, site: str) -> bool:
        """Whether a site could not train the network."""
        return (self._space.keys[at], site) in self._failed


def corrected(told: Sequence[Observation], space: Space) -> np.ndarray:
    """Scores less the effects of site and steps, by least squares of score = network + site + steps.

    Args:
        told: observations.
        space: the networks.

    Returns:
        (N,) Dice points; NaN for a network without any.
    """
    known = [seen for seen in told if seen.trial.key in space.index]
    names = [(space.index[seen.trial.key], f"site {seen.trial.site}", f"steps {seen.trial.steps}") for seen in known]
    columns = {name: i for i, name in enumerate(dict.fromkeys(name for row in names for name in row))}
    rows = np.zeros((len(names), len(columns)))
    for row, parts in zip(rows, names, strict=True):
        row[[columns[name] for name in parts]] = 1.0
    y = 100 * np.array([seen.dice for seen in known])
    pull = PULL * np.eye(len(columns))
    level = y.mean() if len(y) else 0.0
    effects = np.linalg.lstsq(np.vstack([rows, pull]), np.append(y - level, np.zeros(len(columns))), rcond=None)[0]
    scores = np.full(len(space), np.nan)
    for name, column in columns.items():
        if isinstance(name, int):
            scores[name] = level + effects[column]
    return scores
