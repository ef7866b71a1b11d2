"""What is known of Dice over networks: one Gaussian process of all sites and fidelities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

import numpy as np
import torch
from botorch.models import SingleTaskGP
from botorch.optim.fit import fit_gpytorch_mll_scipy
from botorch.posteriors import GPyTorchPosterior
from gpytorch.kernels import Kernel, RBFKernel
from gpytorch.likelihoods import FixedNoiseGaussianLikelihood
from gpytorch.mlls import ExactMarginalLogLikelihood
from gpytorch.utils.cholesky import psd_safe_cholesky
from torch import Tensor

from omnifed.errors import OmniFedError
from omnifed.search.gp import LEAST_SE, prior, scaled
from omnifed.search.space import Space
from omnifed.search.trials import Observation

POINTS = 100.0
"""The process speaks Dice points."""
LENGTH = (1.0, 0.7)
SHARED, OWN, OFFSET, REST = (3.0, 1.25), (0.5, 1.0), (7.0, 1.25), (0.7, 1.0)
LEVEL, BIAS, SITE_BIAS = (10.0, 1.25), (1.0, 1.0), (1.0, 1.0)
"""Mode, and spread of the logarithm of the length or variance, of the priors. Lengths are in units of the features.
Standard deviations in Dice points: of what all sites share, of a site's own, of the sites' offsets, of the noise beyond
what trials report; and of what the briefest training loses against the longest: alike for all, by network, by site."""
JITTER = 1e-6
"""Points squared: keeps the covariance of many like networks positive."""
STEPS = 100
"""Of L-BFGS on the hyperparameters."""
FEATURES, BRIEF, SITE = (0, 1, 2, 3), 4, 5
"""Columns of the input."""


class _Coupled(Kernel):
    """Covariance between sites: 1 of a site with itself; the last one is the mean of the sites that take part."""

    def __init__(self, sites: int, members: int) -> None:
        super().__init__(active_dims=[SITE])
        table = torch.eye(sites + 1, dtype=torch.float64)
        table[sites, :members] = table[:members, sites] = table[sites, sites] = 1 / members
        self.register_buffer("table", table)

    def forward(self, x1: Tensor, x2: Tensor, diag: bool = False, **params: object) -> Tensor:
        a, b = x1[..., 0].long(), x2[..., 0].long()
        return self.table[a, b] if diag else self.table[a[..., :, None], b[..., None, :]]


class _Briefness(Kernel):
    """Product of how brief two trainings are: nothing is lost by the longest."""

    def __init__(self) -> None:
        super().__init__(active_dims=[BRIEF])

    def forward(self, x1: Tensor, x2: Tensor, diag: bool = False, **params: object) -> Tensor:
        return (x1 * x2)[..., 0] if diag else x1 * x2.transpose(-1, -2)


class DiceModel:
    """Dice points over (network, site, steps), from the trials of all sites.

    With z the features of a network (:class:`~omnifed.search.space.Space`), k a squared exponential over them, and u
    how brief a training is, 0 for the longest and 1 for the briefest, linear in the logarithm of its steps:

        y = m + o_i + g(z) + h_i(z) + u (l + b(z) + s_i) + noise
        cov = (a + d [i = j]) k(z, z') + c [i = j] + u u' (e + f k(z, z') + q [i = j])

    so the offsets o of the sites, and what brief training takes from all, from networks of one size and at one site,
    are within the process: raw scores of different sites or fidelities are never averaged. The noise is se^2 as
    reported plus a rest that is learned. Standard errors are of the paired difference from the site's anchor; the
    anchor's own, which is not, is taken as the others' median, since the cases' difficulty is the site's offset.
    Hyperparameters maximise the posterior density in float64 from one start.

    Args:
        told: observations, at least one.
        space: the networks.
        sites: names of those that take part; what is predicted is the mean over these. Others may have told something.
        steps: fewest and most of a search; more if ``told`` has more.

    Raises:
        OmniFedError: OF742 for a score or standard error that is not finite, OF743 for no observation.
    """

    def __init__(self, told: Sequence[Observation], space: Space, sites: Sequence[str], steps: tuple[int, int]) -> None:
        check(told)
        self.space = space
        self.sites = tuple(dict.fromkeys([*sites, *(seen.trial.site for seen in told)]))
        self._members = len(dict.fromkeys(sites)) or len(self.sites)
        asked = [seen.trial.steps for seen in told]
        self.steps = min(steps[0], *asked), max(steps[1], *asked)
        known = [seen for seen in told if seen.trial.key in space.index]
        if not known:
            raise _nothing()
        self.x = self._at(
            [space.index[seen.trial.key] for seen in known],
            [seen.trial.steps for seen in known],
            [self.sites.index(seen.trial.site) for seen in known],
        )
        y = POINTS * torch.tensor([[seen.dice] for seen in known], dtype=torch.float64)
        self.level = float(y.mean())
        noise = torch.tensor(errors(known), dtype=torch.float64)[:, None] ** 2
        self.gp = self._build(y - self.level, noise)
        fit_gpytorch_mll_scipy(ExactMarginalLogLikelihood(self.gp.likelihood, self.gp), options={"maxiter": STEPS})
        self.gp.eval()

    def posterior(self, at: Sequence[int] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Dice of networks after the longest training, mean over the sites, without the noise of a trial.

        Args:
            at: positions of k networks; None is all.

        Returns:
            (k,) means in points and their (k, k) covariance.
        """
        at = range(len(self.space)) if at is None else at
        return self._joint([*at], [self.steps[1]] * len(at), [len(self.sites)] * len(at))

    @property
    def noise(self) -> float:
        """Variance of a trial in points squared, mean of all."""
        return float(self.gp.likelihood.noise.detach().mean())

    def effect(self, at: int, site: str, steps: int | None = None) -> float:
        """Points by which trials of a network at ``site`` and of ``steps`` are above its :meth:`posterior`."""
        pair = [self.sites.index(site), len(self.sites)], [steps or self.steps[1], self.steps[1]]
        mean, _ = self._joint([at, at], pair[1], pair[0])
        return float(mean[0] - mean[1])

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """(N,) one joint draw of all networks' Dice points, as of :meth:`posterior`."""
        if not hasattr(self, "_root"):
            mean, covariance = self.posterior()
            self._root = mean, psd_safe_cholesky(torch.from_numpy(covariance + JITTER * np.eye(len(mean)))).numpy()
        return np.asarray(self._root[0] + self._root[1] @ rng.standard_normal(len(self.space)))

    def _joint(self, at: Sequence[int], steps: Sequence[int], sites: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        with torch.no_grad():
            posterior = self.gp.posterior(self._at(at, steps, sites))
            assert isinstance(posterior, GPyTorchPosterior)
            found = posterior.distribution
            return found.mean.numpy() + self.level, found.covariance_matrix.numpy()

    def _at(self, at: Sequence[int], steps: Sequence[int], sites: Sequence[int]) -> Tensor:
        low, high = (math.log(one) for one in self.steps)
        brief = [(high - math.log(one)) / (high - low) if high > low else 0.0 for one in steps]
        columns = [self.space.features[list(at)], np.array(brief)[:, None], np.array(sites, dtype=float)[:, None]]
        return torch.from_numpy(np.hstack(columns))

    def _build(self, y: Tensor, variance: Tensor) -> SingleTaskGP:
        length = {f"lengthscale_{key}": value for key, value in prior(*LENGTH).items()}
        smooth = RBFKernel(ard_num_dims=len(FEATURES), active_dims=FEATURES, **length)
        site, brief = _Coupled(len(self.sites), self._members), _Briefness()
        parts = [(smooth, SHARED), (smooth * site, OWN), (site, OFFSET)]
        if self.steps[0] < self.steps[1]:
            parts += [(brief, LEVEL), (brief * smooth, BIAS), (brief * site, SITE_BIAS)]
        first, *rest = [scaled(kernel, *prior) for kernel, prior in parts]
        for other in rest:
            first = first + other
        noise = {f"noise_{key}": value for key, value in prior(REST[0] ** 2, REST[1]).items()}
        likelihood = FixedNoiseGaussianLikelihood(variance[:, 0], learn_additional_noise=True, **noise)
        return SingleTaskGP(self.x, y, likelihood=likelihood, covar_module=first, outcome_transform=None).double()


def errors(told: Sequence[Observation]) -> list[float]:
    """Standard errors in Dice points, never 0; an anchor's is the median of its site's others where it has any."""
    paired: dict[str, list[float]] = {}
    for seen in told:
        if seen.trial.why != "anchor":
            paired.setdefault(seen.trial.site, []).append(seen.se)
    se = [
        min(seen.se, median(paired[seen.trial.site]))
        if seen.trial.why == "anchor" and seen.trial.site in paired
        else seen.se
        for seen in told
    ]
    return [max(LEAST_SE, POINTS * one) for one in se]


def check(told: Sequence[Observation]) -> None:
    """Refuses what would spoil a model.

    Raises:
        OmniFedError: OF742 for a score or standard error that is not finite, OF743 for no observation.
    """
    if not told:
        raise _nothing()
    for seen in told:
        if not (math.isfinite(seen.dice) and math.isfinite(seen.se)):
            raise OmniFedError(
                "OF742",
                "The Dice of a trial and its standard error must be finite numbers.",
                seen=f"trial {seen.trial.id}: {seen.dice} ± {seen.se}",
                remedy="Let it count as failed, and see why the site's training left the finite numbers (OF401).",
            )


def _nothing() -> OmniFedError:
    return OmniFedError(
        "OF743",
        "An architecture search needs at least one observation of a network of its space.",
        seen="no trial was told",
        remedy="Give the search a larger budget, or see in the misses why the trials failed.",
    )
