"""The made family of sites scores what its formula says, and is as hard for random search as documented."""

from __future__ import annotations

import numpy as np
import pytest

from omnifed.distill.spec import LAMBDA, TERMS
from omnifed.models.spec import StudentSpec
from omnifed.search.trials import Observation, make_trial, weights_key
from omnifed_sim.weight_surrogate import DIFFICULTY, SITES, WeightSurrogate


def _observe(surrogate: WeightSurrogate, values: tuple[float, ...], repeat: int = 0) -> Observation:
    weights = dict(zip(TERMS, values, strict=True))
    trial = make_trial(
        "s", weights_key(weights), "ct", steps=40, fraction=0.2, student=StudentSpec(), why="model", weights=weights,
        repeat=repeat,
    )  # fmt: skip
    return surrogate.observe(trial)


def test_the_optimum_is_table_3_and_scores_the_sites_difficulty() -> None:
    surrogate = WeightSurrogate()
    for site in SITES:
        assert surrogate.optimum(site).tolist() == [LAMBDA[site][term] for term in TERMS]
        assert surrogate.score(site, surrogate.optimum(site)) == DIFFICULTY[site]
        assert surrogate.regret(site, LAMBDA[site]) == pytest.approx(0, abs=1e-12)


def test_a_step_away_costs_what_the_formula_says() -> None:
    # Sensitivity 1 and logits 1.0 above the optimum: q = 5, lost = 60 (1 - exp(-5 (1 + 5 / 15) / 60)).
    weights = {**LAMBDA["dermoscopy"], "logits": 2.5}
    assert WeightSurrogate().regret("dermoscopy", weights) == pytest.approx(60 * (1 - np.exp(-1 / 9)))
    # No relation: q = 2.5 * 0.25 + 2 = 2.625.
    weights = {**LAMBDA["dermoscopy"], "relation": 0.0}
    assert WeightSurrogate().regret("dermoscopy", weights) == pytest.approx(60 * (1 - np.exp(-2.625 * 1.175 / 60)))


def test_shifted_optima_lie_0_8_away_within_the_box_and_each_elsewhere() -> None:
    plain, shifted = WeightSurrogate(), WeightSurrogate(shifted=True)
    ways = [shifted.optimum(site) - plain.optimum(site) for site in SITES]
    assert np.linalg.norm(ways, axis=1) == pytest.approx([0.8] * 6)
    assert len({tuple(np.sign(way)) for way in ways}) == 6
    for site in SITES:
        assert (shifted.optimum(site) > 0.4).all()
        assert (shifted.optimum(site) < 3).all()
        assert shifted.score(site, shifted.optimum(site)) == DIFFICULTY[site]


def test_noise_is_one_dice_point_and_derives_from_seed_and_trial() -> None:
    surrogate, at = WeightSurrogate(seed=3), (2.0, 2.0, 1.0, 0.5, 1.0)
    seen = [_observe(surrogate, at, repeat).dice for repeat in range(400)]
    assert np.std(seen) == pytest.approx(0.01, rel=0.15)
    assert np.mean(seen) == pytest.approx(DIFFICULTY["ct"], abs=0.002)
    assert _observe(surrogate, at, 7).dice == seen[7]
    assert _observe(WeightSurrogate(seed=4), at, 7).dice != seen[7]


def test_a_missing_term_costs_no_time() -> None:
    all_terms = np.mean([_observe(WeightSurrogate(), (1, 1, 1, 1, 1), r).step_seconds for r in range(200)])
    without = np.mean([_observe(WeightSurrogate(), (1, 0, 1, 1, 1), r).step_seconds for r in range(200)])
    assert all_terms == pytest.approx(0.25, rel=0.01)
    assert without == pytest.approx(0.23, rel=0.01)


@pytest.mark.parametrize(("evaluations", "points"), [(12, 9.1), (24, 6.4)])
def test_random_search_loses_what_is_documented(evaluations: int, points: float) -> None:
    surrogate, lost = WeightSurrogate(), []
    for seed in range(150):
        rng = np.random.default_rng([seed, evaluations])
        for site in SITES:
            true = surrogate.score(site, rng.uniform(0, 3, (evaluations, 5)))
            seen = np.clip(true + 0.01 * rng.standard_normal(evaluations), 0, 1)
            lost.append(100 * (DIFFICULTY[site] - true[seen.argmax()]))
    assert np.mean(lost) == pytest.approx(points, abs=0.4)
