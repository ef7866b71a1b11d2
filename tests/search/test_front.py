"""Fronts and areas by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnifed.search.front import front, gains, hypervolume

DICE, MS = np.array([1.0, 3.0, 2.0, 3.0]), np.array([1.0, 2.0, 3.0, 4.0])


def test_a_front_is_fastest_first_without_what_is_dominated() -> None:
    assert front(DICE, MS).tolist() == [0, 1]
    assert front(np.array([5.0, 5.0]), np.array([1.0, 1.0])).tolist() == [0]


def test_the_area_is_that_of_the_stairs() -> None:
    assert hypervolume(DICE, MS, (0.0, 5.0)) == (2 - 1) * 1 + (5 - 2) * 3
    assert hypervolume(DICE, MS, (3.0, 5.0)) == hypervolume(DICE, MS, (0.0, 1.0)) == 0


def test_a_candidate_gains_what_it_adds() -> None:
    assert gains(DICE, MS, np.array([0]), np.array([1, 2, 0]), (0.0, 5.0)).tolist() == [6, 2, 0]
    assert gains(DICE, MS, np.array([], dtype=int), np.array([0]), (0.0, 5.0)).tolist() == [4]


@given(st.lists(st.tuples(st.floats(0, 9), st.floats(0, 9)), min_size=1, max_size=12))
def test_the_front_alone_has_all_of_the_area(points: list[tuple[float, float]]) -> None:
    dice, ms = np.array(points).T
    best = front(dice, ms)
    whole, alone = (hypervolume(d, m, (-1.0, 10.0)) for d, m in ((dice, ms), (dice[best], ms[best])))
    assert alone == pytest.approx(whole)
    assert (np.diff(dice[best]) > 0).all()
    assert (np.diff(ms[best]) > 0).all()
