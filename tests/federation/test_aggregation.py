from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from omnifed.errors import OmniFedError
from omnifed.federation.aggregation import StreamingMean, share_of, weight
from omnifed.models.base import SiteSpec
from omnifed.models.slices import slice_map, state_shapes, take
from omnifed.models.spec import StudentSpec

FINITE = st.floats(-1e6, 1e6, width=32)


def state(**values) -> dict[str, np.ndarray]:
    return {key: np.asarray(value, np.float32) for key, value in values.items()}


def test_the_mean_of_two_sites_made_by_hand():
    mean = StreamingMean(state(w=[0, 0], b=0))
    mean.add(state(w=[1, 2], b=4), 1.0)
    mean.add(state(w=[5, 10], b=8), 3.0)
    got = mean.mean()
    np.testing.assert_array_equal(got["w"], np.float32([4, 8]))
    assert got["b"] == 7
    assert got["w"].dtype == np.float32


def test_integers_are_taken_from_the_first_site():
    mean = StreamingMean({"n": np.array(0)})
    mean.add({"n": np.array(3)}, 1.0)
    mean.add({"n": np.array(9)}, 5.0)
    assert mean.mean()["n"] == 3


def test_without_replies_the_previous_state_stays():
    previous = {"w": np.float32([1, 2]), "n": np.array(4)}
    got = StreamingMean(previous).mean()
    np.testing.assert_array_equal(got["w"], previous["w"])
    assert got["n"] == 4


@pytest.mark.parametrize(
    ("scheme", "expected"), [("n", [0, 4, 9]), ("sqrt", [0, 2, 3]), ("equal", [0, 1, 1])]
)  # fmt: skip
def test_weights(scheme, expected):
    assert [weight(n, scheme) for n in (0, 4, 9)] == expected


def test_weights_are_shares_of_the_largest():
    assert [share_of(n, "sqrt", 100) for n in (0, 1, 25, 100, 10**9)] == [0, 0.1, 0.5, 1, 1]
    assert share_of(25, "n", 100) == 0.25
    assert share_of(25, "equal", 100) == 1


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (state(w=[1, np.nan]), "OF505"), (state(w=[1, np.inf]), "OF505"), (state(w=[1, 2, 3]), "OF507"), ({}, "OF507"),
        (state(w=[1, 2], x=1), "OF507"),
    ],
)  # fmt: skip
def test_a_refused_site_changes_nothing(bad, code):
    mean = StreamingMean(state(w=[0, 0]))
    mean.add(state(w=[1, 2]), 1.0)
    with pytest.raises(OmniFedError, match=code):
        mean.add(bad, 1.0)
    np.testing.assert_array_equal(mean.mean()["w"], np.float32([1, 2]))


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf")])
def test_a_weight_must_be_a_number(bad):
    with pytest.raises(OmniFedError, match="OF519"):
        StreamingMean(state(w=1)).add(state(w=1), bad)


@given(npst.arrays(np.float32, (3, 2), elements=FINITE), st.lists(st.integers(1, 500), min_size=1, max_size=6))
def test_equal_sites_give_back_their_weights_bit_for_bit(values, sizes):
    mean = StreamingMean({"w": np.zeros_like(values)})
    for n in sizes:
        mean.add({"w": values}, weight(n, "sqrt"))
    np.testing.assert_array_equal(mean.mean()["w"], values)


@given(
    st.lists(
        st.tuples(npst.arrays(np.float32, 4, elements=FINITE), st.floats(0.01, 100)), min_size=1, max_size=8
    )
)  # fmt: skip
def test_it_is_the_mean_of_all_at_once(sites):
    mean = StreamingMean({"w": np.zeros(4, np.float32)})
    for values, share in sites:
        mean.add({"w": values}, share)
    expected = np.average([v.astype(float) for v, _ in sites], axis=0, weights=[s for _, s in sites])
    scale = max(np.abs(v).max() for v, _ in sites)
    np.testing.assert_allclose(mean.mean()["w"], expected, rtol=1e-6, atol=float(scale) * 1e-6)


def test_slices_are_averaged_over_those_who_hold_them():
    large, small = StudentSpec(alpha=0.8, beta=0.8), StudentSpec(alpha=0.6, beta=0.5)
    site = SiteSpec(channels=3, classes=2)
    found = slice_map(large, small, site)
    previous = {
        k: np.full(s, 9, np.float32)
        for k, s in state_shapes(large, site).items()
        if k.startswith("encoder") and "num_batches" not in k
    }
    mean = StreamingMean(previous)
    mean.add({k: np.full(e.shape, 1, np.float32) for k, e in found.items() if e.key in previous}, 3.0, found)
    mean.add({k: np.full(e.shape, 5, np.float32) for k, e in found.items() if e.key in previous}, 1.0, found)
    got = mean.mean()
    for value in take(got, found).values():
        assert (value == 2).all()
    held = {e.key for e in found.values()}
    assert held < set(previous) | held
    assert all((got[k] == 9).all() for k in previous if k not in held)
    assert any((got[k] == 9).any() and (got[k] == 2).any() for k in previous)


def test_a_slice_of_another_shape_is_refused():
    spec, site = StudentSpec(alpha=0.6, beta=0.5), SiteSpec(channels=1, classes=2)
    found = slice_map(spec, spec, site)
    key = next(k for k, e in found.items() if len(e.shape) == 4)
    mean = StreamingMean({found[key].key: np.zeros(found[key].large_shape, np.float32)})
    with pytest.raises(OmniFedError, match="OF507"):
        mean.add({key: np.zeros((1, 1, 1, 1), np.float32)}, 1.0, found)
