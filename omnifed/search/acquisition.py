"""Which weights to try next, which are best by now, and what a term costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from botorch.acquisition import AcquisitionFunction
from botorch.acquisition.logei import qLogNoisyExpectedImprovement
from botorch.acquisition.objective import GenericMCObjective
from botorch.optim import optimize_acqf
from botorch.sampling import SobolQMCNormalSampler
from scipy.optimize import nnls
from torch import Tensor

from omnifed.distill.spec import TERMS, TermName
from omnifed.search.lambda_model import HIGHEST, POINTS, LambdaModel, vector
from omnifed.search.trials import Observation

DRAWS = 64
"""Of the posterior, in the expected improvement."""
RESTARTS = 4
"""Climbs from the best of points drawn over the box and of the best ones tried, slightly moved."""
BOX = torch.tensor([[0.0] * len(TERMS), [1.0] * len(TERMS)], dtype=torch.float64)


@dataclass(frozen=True)
class StepTimes:
    """Seconds of a training step: ``speed of the site`` * (base + the sum over active terms).

    Attributes:
        base: without any term, at a site of median speed.
        terms: what each active term adds; 0 where no trial left it out.
        speeds: by site, 1 is the median; a site without times has 1.
    """

    base: float
    terms: dict[TermName, float]
    speeds: dict[str, float]

    def seconds(self, weights: Mapping[TermName, float], site: str | None = None) -> float:
        """Of one step at ``site``; None is a site of median speed."""
        active = sum(self.terms[term] for term in TERMS if weights.get(term, 0.0) > 0)
        return self.speeds.get(site or "", 1.0) * (self.base + active)


def step_times(told: Sequence[Observation]) -> StepTimes:
    """Fits :class:`StepTimes` to the trials' own times by least squares without negative terms.

    A hardly felt pull towards 0 gives what the trials cannot tell apart to the base.
    """
    timed = [seen for seen in told if 0 < seen.step_seconds < float("inf")]
    if not timed:
        return StepTimes(0.0, dict.fromkeys(TERMS, 0.0), {})
    median = float(np.median([seen.step_seconds for seen in timed]))
    by_site = {site: [s.step_seconds for s in timed if s.trial.site == site] for site in {s.trial.site for s in timed}}
    speeds = {site: float(np.median(seconds)) / median for site, seconds in sorted(by_site.items())}
    active = [[1.0, *(float(v > 0) for v in vector(seen.trial.weights or {}))] for seen in timed]
    pull = np.diag([0.0, *[1e-3] * len(TERMS)])
    seconds = [seen.step_seconds / speeds[seen.trial.site] for seen in timed]
    found = nnls(np.vstack([active, pull]), np.array([*seconds, *[0.0] * len(pull)]))[0]
    return StepTimes(float(found[0]), dict(zip(TERMS, map(float, found[1:]), strict=True)), speeds)


class _MeanOverSites(AcquisitionFunction):
    """Posterior mean of Dice points, mean over some sites, at (b, 1, 5) normalised weights."""

    def __init__(self, model: LambdaModel, sites: Sequence[str]) -> None:
        super().__init__(model.gp)
        self.gp = model.gp
        self.tasks = model.at([([0.0] * len(TERMS), site) for site in sites])[:, -1:]

    def forward(self, X: Tensor) -> Tensor:
        tasks = self.tasks.expand(*X.shape[:-2], *self.tasks.shape)
        joined = torch.cat([X.expand(*X.shape[:-2], len(self.tasks), len(TERMS)), tasks], -1)
        return self.gp.posterior(joined).mean.mean((-2, -1))


def best_weights(
    model: LambdaModel, sites: Sequence[str], cost: Callable[[Sequence[float]], float] | None = None
) -> list[float]:
    """The weights of the highest posterior mean over ``sites``: of those tried, and climbed to from the best of them.

    Args:
        model: of all sites.
        sites: whose mean counts.
        cost: Dice points that a step at given weights costs. Then weights with terms left out are weighed as well, one
            more at a time as long as that pays.

    Returns:
        5 weights in the order of :data:`TERMS`.
    """
    mean = _MeanOverSites(model, sites)
    tried = torch.unique(model.x[:, :-1], dim=0)

    def worth(x: Tensor) -> Tensor:
        with torch.no_grad():
            values = mean(x[:, None])
        costs = [cost([float(v) * HIGHEST for v in row]) for row in x] if cost else [0.0] * len(x)
        return values - torch.tensor(costs, dtype=torch.float64)

    def climb(left_out: tuple[int, ...]) -> Tensor:
        starts = tried.clone()
        starts[:, list(left_out)] = 0.0
        starts = starts[worth(starts).argsort(descending=True, stable=True)[:RESTARTS]]
        return torch.cat([starts, _climb(mean, starts, left_out)])

    left_out: tuple[int, ...] = ()
    found = torch.cat([tried, climb(())])
    best = found[worth(found).argmax()]
    while cost and len(left_out) < len(TERMS):
        ways = [(*left_out, term) for term in range(len(TERMS)) if term not in left_out]
        found = torch.stack([(x := climb(way))[worth(x).argmax()] for way in ways])
        values = worth(found)
        if values.max() <= worth(best[None])[0]:
            break
        best, left_out = found[values.argmax()], ways[int(values.argmax())]
    return [float(v) * HIGHEST for v in best]


def _climb(function: AcquisitionFunction, starts: Tensor, left_out: Sequence[int]) -> Tensor:
    found, _ = optimize_acqf(
        function,
        BOX,
        q=1,
        num_restarts=len(starts),
        batch_initial_conditions=starts[:, None],
        fixed_features=dict.fromkeys(left_out, 0.0) or None,
        return_best_only=False,
        options={"maxiter": 50},
    )
    return found.detach().reshape(-1, len(TERMS))


def propose(
    model: LambdaModel,
    site: str,
    pending: Tensor,
    *,
    gamma: float = 0.0,
    times: StepTimes | None = None,
) -> list[list[float]]:
    """Weights to try at ``site`` by the logarithm of noisy expected improvement (Ament et al., NeurIPS 2023).

    The improvement is over all weights that were tried anywhere, as they would do at this site. Trials that are on
    their way, here or elsewhere, count as if they had come back as expected.

    Args:
        model: of all sites.
        site: which is free.
        pending: (p, 6) points on their way.
        gamma: Dice that a second of step is worth.
        times: of a step; with ``gamma`` > 0, weights with one term left out are weighed as well.

    Returns:
        Weights in the order of :data:`TERMS`, the most promising first.
    """
    task = float(model.sites.index(site))
    baseline = torch.unique(torch.cat([model.x, pending])[:, :-1], dim=0)
    baseline = torch.cat([baseline, torch.full((len(baseline), 1), task, dtype=torch.float64)], -1)
    sampler = SobolQMCNormalSampler(torch.Size([DRAWS]), seed=int(torch.randint(2**31, (1,))))
    improvement = qLogNoisyExpectedImprovement(
        model.believing(pending),
        baseline,
        sampler=sampler,
        objective=_net(times, site, gamma) if gamma and times else None,
        prune_baseline=True,
    )
    found = []
    for left_out in [(), *((term,) for term in range(len(TERMS)) if gamma)]:
        x, value = optimize_acqf(
            improvement,
            torch.cat([BOX, torch.tensor([[0.0], [len(model.sites)]], dtype=torch.float64)], -1),
            q=1,
            num_restarts=RESTARTS,
            raw_samples=32 * RESTARTS,
            fixed_features={len(TERMS): task, **dict.fromkeys(left_out, 0.0)},
            return_best_only=False,
            options={"maxiter": 50, "sample_around_best": True},
        )
        assert value is not None
        found += [(float(v), [float(e) * HIGHEST for e in row]) for v, row in zip(value, x[:, 0, :-1], strict=True)]
    return [weights for _, weights in sorted(found, key=lambda one: -one[0])]


def _net(times: StepTimes, site: str, gamma: float) -> GenericMCObjective:
    """Dice points less what the step costs."""
    terms = torch.tensor([times.terms[term] for term in TERMS], dtype=torch.float64)
    price = POINTS * gamma * times.speeds.get(site, 1.0)

    def net(samples: Tensor, X: Tensor | None = None) -> Tensor:
        if X is None:  # botorch asks so where it only seeks good points to start from
            return samples[..., 0]
        return samples[..., 0] - price * (times.base + (X[..., : len(TERMS)] > 0).to(terms) @ terms)

    return GenericMCObjective(net)
