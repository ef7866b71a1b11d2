"""What a search for OmniKD's weights ends with, from its history."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from omnifed.distill.spec import LAMBDA, TermName
from omnifed.search.acquisition import StepTimes, best_weights, step_times
from omnifed.search.lambda_model import POINTS, LambdaModel, named, vector
from omnifed.search.results import Difference, SiteWeights, Step, WeightResult
from omnifed.search.trials import History

Weights = dict[TermName, float]
Part = tuple[Weights, str | None, float]

UNIVERSAL = "universal"
MEAN = LAMBDA["universal"]
CONFIDENCE, DRAWS = 0.95, 4000


def weight_result(
    history: History, sites: Sequence[str], gamma: float, *, stopped: str, latency_ms: float | None
) -> WeightResult:
    """Chooses by the posterior of all sites' model, not by the best observed score, which is the luckiest.

    A site without any observation takes the universal weights. The intervals of the gains are drawn from the joint
    posterior, at the fitted hyperparameters, and hold for all sites and the universal weights at once: where none
    leaves zero out, the data do not tell any of these weights apart from Table 3's mean.

    Args:
        history: all that was told.
        sites: that take part.
        gamma: of F(lambda) = Dice(lambda) - gamma * seconds a step(lambda).
        stopped: why the search ended.
        latency_ms: of the student where known.

    Raises:
        OmniFedError: OF750 for an observation that is not finite, OF751 if nothing was told.
    """
    told = history.told
    found = _Found(LambdaModel(told, sites), step_times(told), gamma, tuple(sites))
    done = Counter(seen.trial.site for seen in told)
    universal = found.best(None)
    own: list[tuple[str | None, Weights]] = [(None, universal)]
    own += [(site, found.best(site) if done[site] else universal) for site in sites]
    rows = [
        found.row(site, weights, universal, gain, done[site] if site else len(told))
        for (site, weights), gain in zip(own, found.gains(own), strict=True)
    ]
    return WeightResult(
        stopped=stopped,
        trials=len(told),
        failed=len(history.failed),
        seconds=sum(seen.seconds for seen in told),
        gamma=gamma,
        term_seconds=found.times.terms,
        base_seconds=found.times.base,
        latency_ms=latency_ms,
        universal=rows[0],
        sites=tuple(rows[1:]),
        told_apart=any(row.gain.told_apart for row in rows),
        history=found.steps(history),
    )


def band(sd: np.ndarray, draws: np.ndarray) -> float:
    """How many standard deviations to either side hold all of some correlated normal figures at once.

    The 95 % quantile of the largest absolute draw in units of its own standard deviation (the sup-t band, Montiel Olea
    and Plagborg-Moller, J. Applied Econometrics 2019).

    Args:
        sd: (k,) standard deviations; a figure of 0 is sure and does not count.
        draws: (n, k) draws about 0.
    """
    if not (sd > 0).any():
        return 0.0
    return float(np.quantile(np.abs(draws[:, sd > 0] / sd[sd > 0]).max(1), CONFIDENCE))


class _Found:
    """The model, asked for what the result says."""

    def __init__(self, model: LambdaModel, times: StepTimes, gamma: float, sites: tuple[str, ...]) -> None:
        self.model, self.times, self.gamma, self.sites = model, times, gamma, sites

    def best(self, site: str | None) -> Weights:
        """The weights of the highest F at ``site``, or of the mean over the sites."""

        def cost(values: Sequence[float]) -> float:
            return POINTS * self.gamma * self.times.seconds(named(values), site)

        return named(best_weights(self.model, self._group(site), cost if self.gamma else None))

    def gains(self, own: Sequence[tuple[str | None, Weights]]) -> list[Difference]:
        """Over Table 3's mean at the same site."""
        mean, covariance = self._sums([[(weights, site, 1.0), (MEAN, site, -1.0)] for site, weights in own])
        sd = np.sqrt(np.clip(np.diag(covariance), 0, None))
        draws = np.random.default_rng(0).multivariate_normal(np.zeros(len(sd)), covariance, DRAWS, method="eigh")
        far = band(sd, draws) * sd
        return [Difference(points=m, low=m - f, high=m + f) for m, f in zip(mean.tolist(), far.tolist(), strict=True)]

    def row(self, site: str | None, weights: Weights, universal: Weights, gain: Difference, trials: int) -> SiteWeights:
        mean, covariance = self._sums([[(weights, site, 1.0)], [(weights, site, 1.0), (universal, site, -1.0)]])
        seconds = self.times.seconds(weights, site)
        return SiteWeights(
            site=site or UNIVERSAL,
            weights=weights,
            dice=mean[0] / POINTS,
            sd=math.sqrt(max(0.0, covariance[0, 0])) / POINTS,
            gain=gain,
            fitness=mean[0] / POINTS - self.gamma * seconds,
            step_seconds=seconds,
            universal_loss=mean[1],
            trials=trials,
        )

    def steps(self, history: History) -> tuple[Step, ...]:
        """Each observation; ``best`` is the highest posterior Dice of those so far, its site's effect removed."""
        level, *at = self._sums([[(MEAN, site, 1.0)] for site in (None, *self.model.sites)])[0]
        effects = dict(zip(self.model.sites, at - level, strict=True))
        means = self.model.joint(self.model.x)[0].tolist()
        steps, best = [], -math.inf
        for number, (seen, mean) in enumerate(zip(history.told, means, strict=True), 1):
            effect = effects[seen.trial.site]
            best = max(best, mean - effect)
            steps.append(Step.of(number, seen, corrected=seen.dice - effect / POINTS, best=best / POINTS))
        return tuple(steps)

    def _group(self, site: str | None) -> tuple[str, ...]:
        return (site,) if site else self.sites

    def _sums(self, sums: Sequence[Sequence[Part]]) -> tuple[np.ndarray, np.ndarray]:
        """Joint posterior, in points, of k sums over (weights, site, factor): (k,) means and (k, k) covariance."""
        points: list[tuple[list[float], str]] = []
        shares = []
        for row, parts in enumerate(sums):
            for weights, site, factor in parts:
                group = self._group(site)
                points += [(vector(weights), one) for one in group]
                shares += [(row, factor / len(group))] * len(group)
        matrix = np.zeros((len(sums), len(points)))
        for column, (row, share) in enumerate(shares):
            matrix[row, column] = share
        mean, covariance = (tensor.numpy() for tensor in self.model.joint(self.model.at(points)))
        return matrix @ mean, matrix @ covariance @ matrix.T
