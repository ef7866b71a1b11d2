"""One Gaussian process of all sites: its covariance by hand, offsets within it, bad and scarce data."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from omnifed.distill.spec import TERMS
from omnifed.errors import OmniFedError
from omnifed.models.spec import StudentSpec
from omnifed.search import lambda_model
from omnifed.search.gp import reproducible
from omnifed.search.lambda_model import LambdaModel, named, vector
from omnifed.search.trials import Observation, make_trial, weights_key


def seen(site: str, values: tuple[float, ...] | list[float], dice: float, se: float = 0.005) -> Observation:
    weights = named(values)
    trial = make_trial(
        "s", weights_key(weights), site, steps=40, fraction=0.2, student=StudentSpec(), why="model", weights=weights
    )
    return Observation(trial=trial, dice=dice, se=se, n=20, seconds=1.0)


def bowl(values: np.ndarray, best: float) -> float:
    return float(0.8 - 0.02 * ((np.asarray(values) - best) ** 2).sum())


def test_weights_travel_in_the_order_of_the_terms_within_the_box() -> None:
    assert vector({"context": 1.0, "logits": 2.0}) == [2.0, 0.0, 0.0, 0.0, 1.0]
    assert named([-0.2, 3.7, 1.23456, 0.0004, 2]) == dict(zip(TERMS, (0.0, 3.0, 1.235, 0.0, 2.0), strict=True))


def test_covariance_is_that_of_the_docstring() -> None:
    x = torch.tensor([[0.0] * 5 + [0], [0.7, 0, 0, 0, 0, 0], [0.7, 0, 0, 0, 0, 1]], dtype=torch.float64)
    gp = lambda_model._build(x, torch.zeros(3, 1, dtype=torch.float64), torch.ones(3, dtype=torch.float64))
    found = gp.covar_module(x).to_dense().detach()
    a, b, c = (sd**2 for sd, _ in (lambda_model.SHARED, lambda_model.OWN, lambda_model.OFFSET))
    k = math.exp(-0.5)  # one length scale apart
    assert found[0].tolist() == pytest.approx([a + b + c, (a + b) * k + c, a * k], rel=1e-6)
    assert found[1, 2].item() == pytest.approx(a, rel=1e-6)


def test_a_sites_level_is_its_own_and_the_shape_is_shared() -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(0, 3, (40, 5))
    told = [seen("easy", list(p), bowl(p, 1.5)) for p in points]
    told += [seen("hard", [1.5] * 5, 0.5), seen("hard", [0.5] * 5, 0.4), seen("hard", [2.5] * 5, 0.4)]
    model = LambdaModel(told, ["easy", "hard"])
    mean, covariance = model.joint(
        model.at([([1.5] * 5, "easy"), ([1.5] * 5, "hard"), ([0.5, 0.5, 2.5, 2.5, 1.5], "hard")])
    )
    assert mean[0].item() == pytest.approx(80, abs=2)
    assert mean[1].item() == pytest.approx(50, abs=3)
    # Three trials along one line at the hard site, yet its bowl is known elsewhere: 100 * 0.02 * 4 * 1 ** 2 points.
    assert (mean[1] - mean[2]).item() == pytest.approx(8, abs=1.5)
    assert covariance.shape == (3, 3)


def test_a_site_without_a_trial_has_a_posterior_that_is_less_sure() -> None:
    told = [seen(site, [v] * 5, 0.7) for site in ("a", "b") for v in (0.5, 1.5, 2.5)]
    model = LambdaModel(told, ["a", "b", "new"])
    _, covariance = model.joint(model.at([([1.5] * 5, "a"), ([1.5] * 5, "new")]))
    assert covariance[1, 1] > 4 * covariance[0, 0]


def test_a_sure_trial_counts_more_than_an_unsure_one() -> None:
    told = [seen("a", [1.0] * 5, 0.80, se=0.002), seen("a", [1.0] * 5, 0.90, se=0.05), seen("a", [2.0] * 5, 0.80)]
    model = LambdaModel(told, ["a"])
    assert model.joint(model.at([([1.0] * 5, "a")]))[0].item() == pytest.approx(80, abs=0.7)


@pytest.mark.parametrize("trials", [1, 2, 30])
def test_constant_scores_and_few_points_are_no_trouble(trials: int) -> None:
    points = np.random.default_rng(1).uniform(0, 3, (trials, 5))
    model = LambdaModel([seen("a", list(p), 0.6, se=0.0) for p in points], ["a"])
    mean, covariance = model.joint(model.x)
    assert mean.tolist() == pytest.approx([60.0] * trials, abs=1e-6)
    assert (torch.linalg.eigvalsh(covariance) > -1e-8).all()


def test_scores_that_are_not_finite_never_enter() -> None:
    good = seen("a", [1.0] * 5, 0.5)
    for change in ({"dice": float("nan")}, {"se": float("inf")}):
        with pytest.raises(OmniFedError) as caught:
            LambdaModel([good, good.model_copy(update=change)], ["a"])
        assert caught.value.code == "OF750"
    with pytest.raises(OmniFedError) as caught:
        LambdaModel([], ["a"])
    assert caught.value.code == "OF751"


def test_the_same_data_give_the_same_posterior_bit_for_bit_and_global_draws_stay_as_they_were() -> None:
    points = np.random.default_rng(2).uniform(0, 3, (25, 5))
    told = [seen("ab"[i % 2], list(p), bowl(p, 1.2)) for i, p in enumerate(points)]
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    found = []
    for ran_before in (0, 7):
        torch.rand(ran_before)
        with reproducible([1, 2]):
            model = LambdaModel(told, ["a", "b"])
            found.append((*model.joint(model.x), torch.rand(3)))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    torch.set_rng_state(state)
    with reproducible([3]):
        torch.rand(5)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_a_trial_on_its_way_makes_surer_and_moves_nothing() -> None:
    points = np.random.default_rng(3).uniform(0, 3, (15, 5))
    model = LambdaModel([seen("a", list(p), bowl(p, 1.2)) for p in points], ["a"])
    there = model.at([([2.9, 0.1, 2.9, 0.1, 2.9], "a")])
    before, after = model.gp.posterior(there), model.believing(there).posterior(there)
    assert after.mean.item() == pytest.approx(before.mean.item(), abs=1e-8)
    assert after.variance.item() < 0.5 * before.variance.item()
