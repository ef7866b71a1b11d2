from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omnifed.errors import OmniFedError
from omnifed.federation.aggregation import StreamingMean, share_of, weight
from omnifed.privacy.secagg.fixed import FIGURES, Layout

HELD = {
    "b": np.array([1.0, -2.0], np.float32),
    "a": np.zeros((2, 2), np.float32),
    "steps": np.array(7, np.int64),
}


def test_a_vector_by_hand() -> None:
    layout = Layout(HELD, sites=3, clip=2.0)
    state = HELD | {"b": np.array([1.5, -2.0], np.float32), "a": np.full((2, 2), 0.25, np.float32)}
    vector = layout.encode(state, 0.5, {"dice": 0.8})
    scale = (2**31 - 1) // 3 - 1
    assert vector.dtype == np.uint32
    assert len(vector) == layout.size == 2 + 2 * len(FIGURES) + 6
    assert vector[0] == round(scale / 2)
    assert vector[1] == 1
    assert vector[2] == round(0.4 * scale)
    assert vector[3] == vector[0]
    assert list(vector[-6:]) == [round(0.125 * scale / 2)] * 4 + [round(0.25 * scale / 2), 0]
    found = layout.decode(vector)
    assert found.sites == 1
    assert found.weight == pytest.approx(0.5, abs=1e-8)
    assert found.figures == pytest.approx({"dice": 0.8}, abs=1e-8)
    np.testing.assert_allclose(found.update["b"], [0.25, 0], atol=1e-8)
    assert found.update.keys() == {"a", "b"}


def test_the_largest_values_of_all_sites_do_not_overflow() -> None:
    for sites in (3, 6, 200):
        layout = Layout({"a": np.zeros(3, np.float32)}, sites, clip=10.0)
        for sign in (1, -1):
            state = {"a": np.array([sign * 1e6, 0, 0], np.float32)}
            one = layout.encode(state, 1.0, dict.fromkeys(FIGURES, sign * 1e9))
            total = np.zeros_like(one)
            for _ in range(sites):
                total += one
            found = layout.decode(total)
            assert found.update["a"][0] == pytest.approx(sign * 10 * sites, rel=1e-6)
            assert found.figures["loss/total"] == pytest.approx(sign * 100, rel=1e-6)
            assert (found.weight, found.sites) == (pytest.approx(sites, rel=1e-6), sites)


def test_a_longer_update_is_shortened_in_its_own_direction() -> None:
    layout = Layout({"a": np.zeros(2, np.float32), "b": np.zeros(1, np.float32)}, 3, clip=1.0)
    found = layout.decode(layout.encode({"a": np.array([30.0, 0]), "b": np.array([40.0])}, 1.0, {}))
    np.testing.assert_allclose(np.concatenate([found.update["a"], found.update["b"]]), [0.6, 0, 0.8], atol=1e-8)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 20_000), st.integers(0, 2**32 - 1)), min_size=3, max_size=8),
    st.sampled_from(["n", "sqrt", "equal"]),
)
def test_the_sum_is_the_plain_mean(sites, scheme) -> None:
    """Half a step a site: the error of the mean is below n / (2 scale * sum of weights)."""
    layout, plain = Layout(HELD, len(sites), clip=10.0), StreamingMean(HELD)
    total = np.zeros(layout.size, np.uint32)
    for n, seed in sites:
        draw = np.random.default_rng(seed)
        state = {
            key: value + draw.normal(0, 0.5, value.shape).astype(value.dtype) if value.dtype.kind == "f" else value
            for key, value in HELD.items()
        }
        plain.add(state, weight(min(n, 10_000), scheme))
        total += layout.encode(state, share_of(n, scheme, 10_000), {})
    found = layout.decode(total)
    # Half a step of the update a site, and half a step of its weight.
    bound = len(sites) * 0.5 / layout._scale(10.0) / found.weight * 1.2 + 1e-7
    for key, update in found.update.items():
        np.testing.assert_allclose(HELD[key] + update / found.weight, plain.mean()[key], atol=bound, rtol=2e-7)


def test_unlike_or_broken_updates_are_refused() -> None:
    layout = Layout(HELD, 3, clip=1.0)
    with pytest.raises(OmniFedError, match="OF848"):
        layout.encode({"a": HELD["a"]}, 1.0, {})
    with pytest.raises(OmniFedError, match="OF848"):
        layout.encode(HELD | {"b": np.zeros(3, np.float32)}, 1.0, {})
    with pytest.raises(OmniFedError, match="OF505"):
        layout.encode(HELD | {"b": np.array([np.nan, 0], np.float32)}, 1.0, {})
