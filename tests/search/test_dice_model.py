"""One process of all sites and fidelities: offsets inside, equal and broken scores handled."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from small_space import networks, searching, seen

from omnifed.errors import OmniFedError
from omnifed.search.dice_model import DiceModel, errors
from omnifed.search.gp import reproducible
from omnifed.search.space import Space

SEARCH = searching()
SPACE = SEARCH.space
WIDE, NARROW = int(SPACE.features[:, 1].argmax()), int(SPACE.features[:, 1].argmin())


def model(told: list, space: Space = SPACE) -> DiceModel:
    with reproducible([0]):
        return DiceModel(told, space, ("a", "b"), (20, 60))


def told(score, steps: int = 20, every: int = 17) -> list:
    at = range(0, len(SPACE), every)
    return [
        seen(SEARCH.trial(i, "ab"[n % 2], steps, "model"), score(SPACE.features[i], "ab"[n % 2]))
        for n, i in enumerate(at)
    ]


def test_a_hard_site_does_not_spoil_its_networks() -> None:
    found = model(told(lambda f, site: 0.7 + 0.1 * f[1] - 0.3 * (site == "b")))
    mean, covariance = found.posterior()
    assert np.corrcoef(mean, SPACE.features[:, 1])[0, 1] > 0.95
    assert found.effect(0, "a") - found.effect(0, "b") == pytest.approx(30, abs=2)
    assert (np.diag(covariance) > 0).all()


def test_what_brief_training_takes_is_learned_from_longer_trials() -> None:
    brief = told(lambda f, site: 0.5 + 0.1 * f[1])
    long = told(lambda f, site: 0.7 + 0.1 * f[1], steps=60, every=60)
    found = model([*brief, *long])
    assert found.effect(0, "a", 20) - found.effect(0, "a", 60) == pytest.approx(-20, abs=2)


def test_equal_scores_tell_nothing_apart() -> None:
    found = model([seen(one.trial, 0.5, se=0.0) for one in told(lambda f, site: 0.5)])
    mean, _ = found.posterior()
    assert mean == pytest.approx(50, abs=0.01)


def test_a_draw_follows_from_its_seed() -> None:
    found = model(told(lambda f, site: 0.5 + 0.1 * f[0]))
    one, same, other = (found.draw(np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert (one == same).all()
    assert not (one == other).any()


def test_an_anchor_is_as_sure_as_what_is_compared_with_it() -> None:
    trials = [SEARCH.trial(0, "a", 20, "anchor"), SEARCH.trial(1, "a", 20, "model"), SEARCH.trial(2, "a", 20, "model")]
    assert errors([seen(trial, 0.5, se) for trial, se in zip(trials, (0.05, 0.01, 0.03), strict=True)]) == [2, 1, 3]
    assert errors([seen(trials[0], 0.5, 0.0), seen(SEARCH.trial(0, "b", 20, "anchor"), 0.5, 0.05)]) == [0.1, 5]


@pytest.mark.parametrize(("dice", "se"), [(float("nan"), 0.1), (0.5, float("inf"))])
def test_what_is_not_finite_never_enters(dice: float, se: float) -> None:
    broken = SimpleNamespace(trial=SEARCH.trial(0, "a", 20, "model"), dice=dice, se=se)
    with pytest.raises(OmniFedError) as caught:
        model([*told(lambda f, site: 0.5), broken])
    assert caught.value.code == "OF742"


def test_nothing_told_is_refused() -> None:
    with pytest.raises(OmniFedError) as caught:
        model([], Space(networks(alpha=(1.0, 1.0))))
    assert caught.value.code == "OF743"
