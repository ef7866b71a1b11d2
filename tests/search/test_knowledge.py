"""The worth of trials by hand."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest

from omnifed.search.knowledge import knowledge_gradient

NORMAL = NormalDist()


def worth(mean: list[float], sd: list[float], going: tuple[int, ...] = (), noise: float = 1.0) -> np.ndarray:
    at = range(len(mean))
    return knowledge_gradient(np.array(mean), np.diag(np.square(sd)), noise, at, going, at)


def closed(gap: float, move: float) -> float:
    """E[max(0, Z move - gap)]."""
    return move * NORMAL.pdf(gap / move) - gap * NORMAL.cdf(-gap / move)


def test_of_two_apart_networks_it_is_the_expected_improvement_of_the_mean() -> None:
    move = 2.0**2 / math.hypot(2.0, 1.0)
    assert worth([0.0, -1.0], [0.0, 2.0]) == pytest.approx([0, closed(1.0, move)], abs=0.02)
    assert worth([0.0, 0.0], [0.0, 2.0])[1] == pytest.approx(closed(0.0, move), rel=0.05)


def test_what_is_known_or_hopeless_is_worth_nothing_and_what_is_unsure_most() -> None:
    sure, unsure, hopeless = worth([0.0, 0.0, -50.0], [0.0, 2.0, 2.0])
    assert sure == pytest.approx(0, abs=1e-12)
    assert hopeless == pytest.approx(0, abs=1e-6)
    assert unsure > 0.5


def test_a_trial_on_its_way_takes_from_the_worth_of_the_next() -> None:
    alone, after = (worth([0.0, 0.0], [0.0, 2.0], going)[1] for going in ((), (1,)))
    left = 4.0 - 16.0 / 5.0
    assert 0 < after < alone
    assert after == pytest.approx(closed(0.0, left / math.sqrt(left + 1)), rel=0.05)


def test_nothing_to_weigh_is_no_error() -> None:
    assert knowledge_gradient(np.zeros(2), np.eye(2), 1.0, [0, 1], [], []).shape == (0,)
