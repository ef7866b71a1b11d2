"""What is known of Dice over OmniKD's weights: one Gaussian process of all sites."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from botorch.models import SingleTaskGP
from botorch.optim.fit import fit_gpytorch_mll_scipy
from botorch.posteriors import GPyTorchPosterior
from gpytorch.kernels import Kernel, RBFKernel
from gpytorch.likelihoods import FixedNoiseGaussianLikelihood
from gpytorch.mlls import ExactMarginalLogLikelihood
from torch import Tensor

from omnifed.distill.spec import TERMS, TermName
from omnifed.errors import OmniFedError
from omnifed.search.gp import LEAST_SE, prior, scaled
from omnifed.search.trials import Observation

HIGHEST = 3.0
"""The box of each weight is 0..3."""
POINTS = 100.0
"""The process speaks Dice points."""
LENGTH = (0.7, 0.7)
SHARED, OWN, OFFSET, REST = (10.0, 1.25), (3.0, 1.25), (7.0, 1.25), (0.7, 1.0)
"""Mode, and spread of the logarithm of the length or variance, of the priors: length scales in units of the box;
standard deviations, in Dice points, of what all sites share, of a site's own, of the offsets, and of the noise beyond
what trials report."""
STEPS = 200
"""Of L-BFGS on the hyperparameters, at most. To stop it early by a loose tolerance costs Dice."""


def vector(weights: Mapping[TermName, float]) -> list[float]:
    """The weights in the order of :data:`TERMS`; one that is not named is 0."""
    return [weights.get(term, 0.0) for term in TERMS]


def named(values: Iterable[float]) -> dict[TermName, float]:
    """Weights by term, rounded to three decimals, within the box."""
    return {term: min(max(round(float(v), 3), 0.0), HIGHEST) for term, v in zip(TERMS, values, strict=True)}


class _SameSite(Kernel):
    """1 where both points are of one site, else 0."""

    def forward(self, x1: Tensor, x2: Tensor, diag: bool = False, **params: object) -> Tensor:
        if diag:
            return (x1 == x2)[..., 0].to(x1)
        return (x1 == x2.transpose(-1, -2)).to(x1)


class LambdaModel:
    """Dice points over (lambda, site), from the trials of all sites.

    f_i(lambda) = m + o_i + g(lambda) + h_i(lambda): with k a squared exponential over lambda / 3, one length scale a
    term, the covariance is

        cov(f_i(x), f_j(x')) = (a + b [i = j]) k(x, x') + c [i = j]

    the intrinsic coregionalisation model (Bonilla et al., NeurIPS 2007) with a matrix that treats all sites alike, so
    that a site without any trial has a posterior too, and an offset c of each site within the process: scores are not
    standardised site by site, which would hide that all points of a site are good. The noise is se^2 as reported plus a
    rest that is learned (training varies as well as the cases). Hyperparameters maximise the posterior density, in
    float64, from one start.

    Args:
        told: observations.
        sites: names of all sites; others of ``told`` are appended.

    Raises:
        OmniFedError: OF750 for a score or standard error that is not finite, OF751 for no observation.
    """

    def __init__(self, told: Sequence[Observation], sites: Sequence[str]) -> None:
        _check(told)
        self.sites = tuple(dict.fromkeys([*sites, *(seen.trial.site for seen in told)]))
        self.x = self.at([(vector(seen.trial.weights or {}), seen.trial.site) for seen in told])
        y = POINTS * torch.tensor([[seen.dice] for seen in told], dtype=torch.float64)
        self.level = float(y.mean())
        se = POINTS * torch.tensor([seen.se for seen in told], dtype=torch.float64)
        self.gp = _build(self.x, y - self.level, se.clamp_min(LEAST_SE) ** 2)
        fit_gpytorch_mll_scipy(ExactMarginalLogLikelihood(self.gp.likelihood, self.gp), options={"maxiter": STEPS})
        self.gp.eval()

    def at(self, points: Sequence[tuple[Sequence[float], str]]) -> Tensor:
        """(n, 6) float64 input of (weights in the order of :data:`TERMS`, site)."""
        rows = [[*(v / HIGHEST for v in values), float(self.sites.index(site))] for values, site in points]
        return torch.tensor(rows, dtype=torch.float64).reshape(-1, len(TERMS) + 1)

    def joint(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Posterior of Dice in points, without the noise of a trial.

        Args:
            x: (n, 6) as of :meth:`at`.

        Returns:
            (n,) means and their (n, n) covariance.
        """
        with torch.no_grad():
            posterior = self.gp.posterior(x)
            assert isinstance(posterior, GPyTorchPosterior)
            return posterior.distribution.mean + self.level, posterior.distribution.covariance_matrix

    def believing(self, x: Tensor) -> SingleTaskGP:
        """The process as if trials at ``x`` (n, 6) had come back with what it expects: surer there, not moved."""
        if not len(x):
            return self.gp
        with torch.no_grad():
            expected = self.gp.posterior(x).mean
            noise = self.gp.likelihood.noise_covar.noise
            believing = _build(
                torch.cat([self.x, x]),
                torch.cat([self.gp.train_targets[:, None], expected]),
                torch.cat([noise, noise.mean().expand(len(x))]),
            )
        believing.load_state_dict(self.gp.state_dict())
        return believing.eval()


def _build(x: Tensor, y: Tensor, variance: Tensor) -> SingleTaskGP:
    terms = list(range(len(TERMS)))
    length = {f"lengthscale_{key}": value for key, value in prior(*LENGTH).items()}
    smooth = RBFKernel(ard_num_dims=len(terms), active_dims=terms, **length)

    def same() -> Kernel:
        return _SameSite(active_dims=[len(terms)])

    covariance = scaled(smooth, *SHARED) + scaled(smooth * same(), *OWN) + scaled(same(), *OFFSET)
    rest = {f"noise_{key}": value for key, value in prior(REST[0] ** 2, REST[1]).items()}
    likelihood = FixedNoiseGaussianLikelihood(variance, learn_additional_noise=True, **rest)
    return SingleTaskGP(x, y, likelihood=likelihood, covar_module=covariance, outcome_transform=None).double()


def _check(told: Sequence[Observation]) -> None:
    if not told:
        raise OmniFedError(
            "OF751",
            "A search for OmniKD's weights needs at least one observation.",
            seen="no trial was told",
            remedy="Give the search a larger budget, or see in the misses why the trials failed.",
        )
    for seen in told:
        if not (math.isfinite(seen.dice) and math.isfinite(seen.se)):
            raise OmniFedError(
                "OF750",
                "A trial's Dice and its standard error must be finite numbers.",
                seen=f"trial {seen.trial.id}: {seen.dice} ± {seen.se}",
                remedy="Let it count as failed, and see why the site's training left the finite numbers (OF401).",
            )
