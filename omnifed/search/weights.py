"""The search for OmniKD's weights: for each site its own, and for all one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from omnifed.distill.spec import LAMBDA, TERMS, TermName
from omnifed.models.spec import StudentSpec
from omnifed.search.acquisition import best_weights, propose, step_times
from omnifed.search.gp import reproducible
from omnifed.search.lambda_model import HIGHEST, LambdaModel, named, vector
from omnifed.search.results import WeightResult
from omnifed.search.spec import WeightSpec
from omnifed.search.trials import History, Trial, Why, make_trial, weights_key
from omnifed.search.weight_result import weight_result

Weights = dict[TermName, float]

PATTERN = ((1, 1, -1, -1, 1), (1, -1, 1, 1, -1), (-1, 1, 1, -1, -1), (-1, -1, -1, 1, 1), (-1, 1, 1, 1, 1))
"""Up or down by term: the neighbours of Table 3's mean. Each two terms show at least three of their four ways."""
SPREAD = 0.6
"""A neighbour's weights are 0.4 or 1.6 times the mean's."""
SETTLED = 9
"""Trials of one site from which on the others, if they have just come, start from what it found."""
ALIKE = 0.3
"""Weights nearer than this (Euclidean) are not tried both when a site starts from the others' optima."""


def neighbours(gamma: float) -> list[Weights]:
    """Table 3's mean and five weights around it.

    Args:
        gamma: where time counts, each of the five leaves one term out: only so its time can be told.
    """
    mean = LAMBDA["universal"]
    around = [
        named([value * (1 + SPREAD * sign) for value, sign in zip(vector(mean), signs, strict=True)])
        for signs in PATTERN
    ]
    if gamma:
        around = [{**weights, term: 0.0} for weights, term in zip(around, TERMS, strict=True)]
    return [dict(mean), *around]


class WeightSearch:
    """Asks which weights to distil with; a :class:`~omnifed.search.trials.Searcher`.

    Each site starts with Table 3's mean and its neighbours, the same at all sites; then it gets what promises most for
    it by one model of all sites. A site that comes late starts with the mean and the others' optima.

    Args:
        study: name of the study; part of the trials' ids.
        spec: how to search; its budget is the caller's business.
        student: to train.
        sites: registered names of the sites that take part.
    """

    def __init__(self, study: str, spec: WeightSpec, student: StudentSpec, sites: Sequence[str]) -> None:
        self.study, self.spec, self.student, self.sites = study, spec, student, tuple(sites)
        self.start = neighbours(spec.gamma)

    def ask(self, history: History, sites: Sequence[str]) -> list[Trial]:
        """One trial for each free site; see :class:`~omnifed.search.trials.Searcher`.

        Raises:
            OmniFedError: OF750 for an observation that is not finite.
        """
        trials: list[Trial] = []
        model: LambdaModel | None = None
        for site in sites:
            pending = [*history.pending, *trials]
            trial = self._start(history, pending, site)
            if trial is None and not history.told:
                trial = self._random(history, pending, site)
            if trial is None:
                with reproducible([self.spec.seed, history.asked + len(trials)]):
                    model = model or LambdaModel(history.told, [*self.sites, *sites])
                    trial = self._model(history, pending, site, model)
            trials.append(trial)
        return trials

    def result(self, history: History, *, stopped: str, latency_ms: float | None = None) -> WeightResult:
        """What was found.

        Args:
            history: all that was asked and told.
            stopped: why it ended.
            latency_ms: of the student where known.

        Raises:
            OmniFedError: OF750 for an observation that is not finite, OF751 if nothing was told.
        """
        with reproducible([self.spec.seed]):
            return weight_result(history, self.sites, self.spec.gamma, stopped=stopped, latency_ms=latency_ms)

    def _start(self, history: History, pending: Sequence[Trial], site: str) -> Trial | None:
        """The next of the first points, while there is one."""
        seen = _asked(history, pending, site)
        late = self._late(history, seen, site)
        for weights in self.start[: 1 if late else None]:
            if weights_key(weights) not in seen:
                return self._trial(
                    history, pending, site, weights, "anchor" if weights is self.start[0] else "warm start"
                )
        return None

    def _late(self, history: History, seen: Counter[str], site: str) -> bool:
        """Whether others are far ahead of a site that has not done its first points."""
        done = Counter(one.trial.site for one in history.told)
        return len(seen) < len(self.start) and any(n >= SETTLED for other, n in done.items() if other != site)

    def _model(self, history: History, pending: Sequence[Trial], site: str, model: LambdaModel) -> Trial:
        seen = _asked(history, pending, site)
        refused = {trial.key for trial in history.failed if trial.site == site}
        if self._late(history, seen, site):
            for weights in self._others(history, pending, model, site):
                return self._trial(history, pending, site, weights, "warm start")
        on_way = model.at([(vector(trial.weights or {}), trial.site) for trial in pending])
        times = step_times(history.told) if self.spec.gamma else None
        for values in propose(model, site, on_way, gamma=self.spec.gamma, times=times):
            if weights_key(named(values)) not in refused:
                return self._trial(history, pending, site, named(values), "model")
        return self._random(history, pending, site)

    def _random(self, history: History, pending: Sequence[Trial], site: str) -> Trial:
        rng = np.random.default_rng([self.spec.seed, history.asked, len(pending)])
        return self._trial(history, pending, site, named(rng.uniform(0, HIGHEST, len(TERMS))), "random")

    def _others(self, history: History, pending: Sequence[Trial], model: LambdaModel, site: str) -> Iterator[Weights]:
        """The optima of the sites that are ahead, first of all of them together, that the site has not tried nearly."""
        done = Counter(one.trial.site for one in history.told)
        ahead = [other for other in self.sites if other != site and done[other] >= SETTLED]
        tried = [vector(trial.weights or {}) for trial in _trials(history, pending, site)]
        for group in [ahead, *([other] for other in ahead)]:
            weights = named(best_weights(model, group))
            if all(np.linalg.norm(np.subtract(vector(weights), one)) > ALIKE for one in tried):
                yield weights

    def _trial(self, history: History, pending: Sequence[Trial], site: str, weights: Weights, why: Why) -> Trial:
        key = weights_key(weights)
        return make_trial(
            self.study,
            key,
            site,
            steps=self.spec.steps,
            fraction=self.spec.fraction,
            student=self.student,
            why=why,
            repeat=_asked(history, pending, site)[key],
            weights=weights,
        )


def _trials(history: History, pending: Sequence[Trial], site: str) -> list[Trial]:
    """What was told, refused or is on its way at a site."""
    trials = [*(seen.trial for seen in history.told), *pending, *history.failed]
    return [trial for trial in trials if trial.site == site]


def _asked(history: History, pending: Sequence[Trial], site: str) -> Counter[str]:
    """How often each point was."""
    return Counter(trial.key for trial in _trials(history, pending, site))
