"""The rules on small numbers made by hand, on slices, in chunks, and against one site that sends what it likes."""

from __future__ import annotations

import numpy as np
import pytest
import toy_attacks
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from omnifed.errors import OmniFedError
from omnifed.federation import robust
from omnifed.federation.aggregation import Update, mean_of
from omnifed.federation.robust import clipped_mean, combine, median
from omnifed.federation.validation import update_norm
from omnifed.models.base import SiteSpec
from omnifed.models.slices import slice_map, state_shapes, take
from omnifed.models.spec import StudentSpec
from omnifed.privacy.spec import AggregationSpec

RULES = (clipped_mean, median)
FINITE = st.floats(-1e3, 1e3, width=32)


def state(**values) -> dict[str, np.ndarray]:
    return {key: np.asarray(value, np.float32) for key, value in values.items()}


def sent(*states, weights=None, found=None) -> list[Update]:
    shares = weights or [1.0] * len(states)
    return [Update(lambda s=s: s, w, found) for s, w in zip(states, shares, strict=True)]


def test_updates_are_shortened_to_the_median_of_their_norms():
    held = state(w=[1, 1], b=0)
    # Norms 5, 1 and 100; the last becomes (0, 5), the others stay.
    got = clipped_mean(held, sent(state(w=[4, 5], b=0), state(w=[1, 1], b=1), state(w=[1, 101], b=0)))
    np.testing.assert_allclose(got["w"], [2.0, 4.0])
    assert got["b"] == pytest.approx(1 / 3)


def test_a_clipped_mean_keeps_the_weights_of_the_sites():
    got = clipped_mean(state(w=[0]), sent(state(w=[1]), state(w=[2]), state(w=[300]), weights=[1.0, 1.0, 2.0]))
    np.testing.assert_allclose(got["w"], [(1 + 2 + 2 * 2) / 4])


def test_the_median_of_each_weight():
    held = state(w=[9, 9], b=9)
    got = median(held, sent(state(w=[1, 7], b=0), state(w=[2, -5], b=4), state(w=[900, 6], b=2), state(w=[4, 8], b=3)))
    np.testing.assert_array_equal(got["w"], [3.0, 6.5])
    assert got["b"] == 2.5
    assert got["w"].dtype == np.float32
    got = median(held, sent(state(w=[1, 7], b=0), state(w=[2, -5], b=4), state(w=[900, 6], b=2), weights=[1, 1, 50]))
    np.testing.assert_array_equal(got["w"], [2.0, 6.0])  # how many cases a site claims plays no part


def test_a_site_without_cases_has_no_vote():
    got = median(state(w=[0]), sent(state(w=[1]), state(w=[2]), state(w=[9]), weights=[1, 1, 0]))
    assert got["w"] == 1.5


@pytest.mark.parametrize("rule", RULES)
def test_integers_come_from_the_first_site_and_nobody_leaves_all_as_it_was(rule):
    held = {"w": np.float32([1, 2]), "n": np.array(4)}
    got = rule(held, sent({"w": np.float32([3, 4]), "n": np.array(8)}, {"w": np.float32([3, 4]), "n": np.array(9)}))
    assert got["n"] == 8
    np.testing.assert_array_equal(got["w"], [3, 4])
    for updates in ([], sent({}), sent({}, {})):  # no reply, or replies that can no longer be read
        got = rule(held, updates)
        np.testing.assert_array_equal(got["w"], [1, 2])
        assert got["n"] == 4


@pytest.mark.parametrize("rule", [*RULES, mean_of])
@pytest.mark.parametrize(("bad", "code"), [(state(w=[np.nan]), "OF505"), (state(w=[np.inf]), "OF505"),
                                           (state(w=[1, 2]), "OF507"), (state(x=[1]), "OF507")])  # fmt: skip
def test_what_is_no_number_or_does_not_fit_is_always_refused(rule, bad, code):
    with pytest.raises(OmniFedError, match=code):
        rule(state(w=[0]), sent(state(w=[1]), bad, state(w=[2])))


@given(st.lists(npst.arrays(np.float32, 5, elements=FINITE), min_size=1, max_size=7), st.integers(1, 11))
def test_the_median_is_numpys_in_chunks_of_any_size(values, size):
    held = {"a": np.zeros((2, 1), np.float32), "b": np.zeros(3, np.float32)}
    states = [{"a": v[:2].reshape(2, 1), "b": v[2:]} for v in values]
    before = robust.CHUNK_BYTES
    robust.CHUNK_BYTES = 4 * size
    try:
        got = median(held, sent(*states))
    finally:
        robust.CHUNK_BYTES = before
    expected = np.median(np.stack(values).astype(np.float64), axis=0).astype(np.float32)
    np.testing.assert_array_equal(np.concatenate([got["a"].ravel(), got["b"]]), expected)


@given(npst.arrays(np.float32, (4, 3), elements=FINITE), npst.arrays(np.float32, 3, elements=FINITE))
def test_no_update_moves_a_clipped_mean_by_more_than_the_median_norm(values, origin):
    held = {"w": origin}
    got = clipped_mean(held, sent(*({"w": v} for v in values)))
    norms = np.linalg.norm(values.astype(np.float64) - origin, axis=1)
    moved = np.linalg.norm(got["w"].astype(np.float64) - origin)
    assert moved <= np.median(norms) + 1e-3 * (1 + np.abs(values).max() + np.abs(origin).max())


@given(st.integers(1, 6), npst.arrays(np.float32, 4, elements=FINITE))
def test_equal_sites_give_back_their_weights_bit_for_bit(sites, values):
    held = {"w": np.ones(4, np.float32)}
    for rule in RULES:
        np.testing.assert_array_equal(rule(held, sent(*[{"w": values}] * sites))["w"], values)


def test_a_mean_is_the_mean_whatever_the_rule_says():
    updates = sent(state(w=[1]), state(w=[2]), state(w=[90]))
    assert combine(AggregationSpec(rule="median"), state(w=[0]), updates)["w"] == 31
    assert combine(AggregationSpec(mode="robust", rule="median"), state(w=[0]), updates)["w"] == 2
    assert combine(AggregationSpec(mode="robust"), state(w=[0]), updates)["w"] == pytest.approx((1 + 2 + 2) / 3)


def test_slices_of_different_students():
    large, small = StudentSpec(alpha=0.8, beta=0.8), StudentSpec(alpha=0.6, beta=0.5)
    site = SiteSpec(channels=3, classes=2)
    found = slice_map(large, small, site)
    held = {
        key: np.zeros(shape, np.float32)
        for key, shape in state_shapes(large, site).items()
        if key.startswith("encoder") and "num_batches" not in key
    }
    whole = [Update(lambda v=v: {k: np.full_like(a, v) for k, a in held.items()}, 1.0) for v in (1, 2, 1000)]
    part = {k: np.full(e.shape, 3, np.float32) for k, e in found.items() if e.key in held}
    updates = [*whole, Update(lambda: part, 1.0, found)]
    got = median(held, updates)
    mine = take(got, found)
    assert all((value == 2.5).all() for value in mine.values())  # of 1, 2, 3 and 1000
    outside = {k: v.copy() for k, v in got.items()}
    for entry in (found[k] for k in part):
        outside[entry.key][entry.index] = 2
    assert all((value == 2).all() for value in outside.values())  # of 1, 2 and 1000
    clipped = clipped_mean(held, updates)
    assert max(np.abs(value).max() for value in clipped.values()) < 3


def test_names_may_be_missing_from_what_later_joiners_start_from():
    held = state(stem=[0, 0], head=[0])
    updates = sent(state(stem=[1, 1], head=[5]), state(head=[7]), state(head=[9]))
    got = median(held, updates, partial=True)
    np.testing.assert_array_equal(got["stem"], [1, 1])
    assert got["head"] == 7
    got = clipped_mean(held, updates, partial=True)  # norms sqrt(27), 7, 9: the last becomes 7
    assert got["head"] == pytest.approx((5 + 7 + 7) / 3)
    np.testing.assert_array_equal(got["stem"], [1, 1])


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("attack", sorted(toy_attacks.ATTACKS))
def test_one_of_six_cannot_move_the_average_far(rule, attack):
    """Six honest updates around a common direction; the error is relative to their mean's length."""
    held, honest = toy_attacks.round_of(6, seed=3)
    good = update_norm(mean_of(held, sent(*honest)), held)
    error = toy_attacks.error(rule, held, honest, attack)
    assert error <= 0.5 * good  # noise between sites is as long as their common direction here
    if attack == "x100":
        assert toy_attacks.error(mean_of, held, honest, attack) > 10 * good
