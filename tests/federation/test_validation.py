"""How long an update may be: small vectors made by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnifed.federation.validation import FAR, MOST, too_long, update_norm
from omnifed.privacy.spec import AggregationSpec

MEAN, ROBUST = AggregationSpec(), AggregationSpec(mode="robust")


def test_the_norm_of_a_difference_made_by_hand():
    held = {"w": np.float32([[1, 1], [1, 1]]), "b": np.float32([5]), "n": np.array(7)}
    state = {"w": np.float32([[4, 1], [1, 5]]), "b": np.float32([5]), "n": np.array(900), "own": np.float32([1e9])}
    assert update_norm(state, held) == 5.0  # integers and local layers do not count
    assert update_norm({"b": np.float32([3])}, held) == 2.0
    assert update_norm(held, held) == 0.0


def test_numbers_whose_squares_no_float32_holds():
    held = {"w": np.zeros(4, np.float32)}
    assert update_norm({"w": np.full(4, 1e30, np.float32)}, held) == pytest.approx(2e30, rel=1e-6)


def test_ten_times_the_median_of_the_others_is_allowed_and_no_more():
    norms = {"a": 1.0, "b": 2.0, "c": 4.0}
    assert too_long({**norms, "d": 20.0}, MEAN) == {}
    found = too_long({**norms, "d": 20.1}, MEAN)
    assert list(found) == ["d"]
    assert found["d"].code == "OF860"
    assert "20.1" in found["d"].seen
    assert "20.1" not in found["d"].rule  # the rule is what leaves in a miss


def test_two_updates_say_nothing_of_each_other_but_both_end_somewhere():
    assert too_long({"a": 1.0, "b": 1000.0}, MEAN) == {}
    assert list(too_long({"a": 1.0, "b": 2 * MOST}, MEAN)) == ["b"]
    assert list(too_long({"a": 2 * MOST}, MEAN)) == ["a"]


def test_where_the_others_stand_still_one_may_move():
    assert too_long({"a": 0.0, "b": 0.0, "c": 3.0}, MEAN) == {}
    assert list(too_long({"a": 0.0, "b": 0.0, "c": 2 * MOST}, MEAN)) == ["c"]


def test_two_attackers_of_six_do_not_hide_each_other():
    norms = dict.fromkeys("abcd", 1.0) | {"e": 100.0, "f": 1e4}
    assert list(too_long(norms, MEAN)) == ["e", "f"]


def test_a_site_that_went_on_alone_may_be_as_far_as_all_rounds_together():
    """Usual norms 5, 3, 1 in the rounds before, 0.1 in this one: apart by at most 2 x 9.1."""
    norms = {"a": 0.1, "b": 0.1, "c": 0.1, "d": 18.0}
    assert list(too_long(norms, MEAN, reach=9.0)) == ["d"]
    assert too_long(norms, MEAN, alone=["d"], reach=9.0) == {}
    assert list(too_long({**norms, "d": 18.3}, MEAN, alone=["d"], reach=9.0)) == ["d"]
    assert too_long({**norms, "d": 1.0}, MEAN, alone=["d"]) == {}  # never less than what any other site may


def test_robust_shortens_instead():
    assert too_long({"a": 1.0, "b": 1.0, "c": 1e9}, ROBUST) == {}


@given(st.lists(st.floats(1, FAR), min_size=1, max_size=8))
def test_sites_within_a_factor_of_ten_are_never_left_out(norms):
    assert too_long({str(i): norm for i, norm in enumerate(norms)}, MEAN) == {}
