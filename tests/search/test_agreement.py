"""Kendall's tau by hand."""

from __future__ import annotations

import numpy as np
import pytest

from omnifed.search.agreement import agreement


def tau(a: list[float], b: list[float]) -> float | None:
    found = agreement(np.array(a), np.array(b), steps=(20, 60), full=False)
    return found.tau if found else None


def test_tau_is_concordant_less_discordant_pairs() -> None:
    assert tau([1, 2, 3], [4, 5, 6]) == 1
    assert tau([1, 2, 3], [6, 5, 4]) == -1
    assert tau([1, 2, 3, 4], [1, 2, 4, 3]) == pytest.approx((5 - 1) / 6)


def test_equal_scores_and_single_networks_say_nothing() -> None:
    assert tau([1, 1, 1], [1, 2, 3]) == 0
    assert tau([1], [1]) is None


def test_the_interval_needs_four_networks_and_holds_tau() -> None:
    assert agreement(np.arange(3), np.arange(3), steps=(1, 2), full=True).low is None
    found = agreement(np.arange(6), np.array([0, 1, 2, 3, 5, 4]), steps=(1, 2), full=True)
    assert found.low < found.tau <= found.high
    assert found == agreement(np.arange(6), np.array([0, 1, 2, 3, 5, 4]), steps=(1, 2), full=True)
