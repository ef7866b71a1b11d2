import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omnifed_sim.phantoms.shapes import blob, ellipse, field, grid, lay, line_field, soft, stroke


def test_grid_runs_from_edge_to_edge_and_cannot_be_changed():
    y, x = grid(4)
    assert y[:, 0].tolist() == [-0.75, -0.25, 0.25, 0.75]
    assert x[0].tolist() == [-0.75, -0.25, 0.25, 0.75]
    with pytest.raises(ValueError, match="read-only"):
        y[0, 0] = 1


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 30), st.integers(1, 10), st.floats(0, 2), st.integers(0, 10**6))
def test_a_field_is_the_same_at_every_resolution(high, low, slope, seed):
    low = min(low, high)
    small = field(np.random.default_rng(seed), 32, high, low, slope)
    large = field(np.random.default_rng(seed), 96, high, low, slope)
    assert np.isfinite(small).all()
    # the centre of small pixel i is the centre of large pixel 3 i + 1
    np.testing.assert_allclose(small, large[1::3, 1::3], atol=2e-4)


def test_a_field_has_mean_zero_and_deviation_one():
    values = np.stack([field(np.random.default_rng(s), 48, 6) for s in range(300)])
    assert abs(values.mean()) < 0.02
    assert values.std() == pytest.approx(1, abs=0.05)
    lines = np.stack([line_field(np.random.default_rng(s), 48, 6) for s in range(300)])
    assert lines.std() == pytest.approx(1, abs=0.07)


def test_levels_by_hand():
    at = np.array([[0.0, 0.5, 1.0]], np.float32), np.zeros((1, 3), np.float32)
    np.testing.assert_allclose(ellipse(*at, 0, 0, 0.5, 2.0), [[0.5, 0, -0.5]], atol=1e-6)
    np.testing.assert_allclose(ellipse(*at, 0, 0, 2.0, 0.5, np.pi / 2), [[0.5, 0, -0.5]], atol=1e-6)
    np.testing.assert_allclose(stroke(*at, 0, 0, 0.0, 0.0, 0.2), [[0.2, -0.3, -0.8]], atol=1e-6)
    round_blob = blob(np.random.default_rng(0), *at, 0.0, 0.0, 0.4, rough=0)
    np.testing.assert_allclose(round_blob, [[0.4, -0.1, -0.6]], atol=1e-5)


def test_soft_edge_and_paint_by_hand():
    level = np.array([[-0.2, -0.1, 0.0, 0.05, 0.1, 0.3]], np.float32)
    np.testing.assert_allclose(soft(level, 0.1), [[0, 0, 0.5, 0.75, 1, 1]], atol=1e-6)
    image = np.full((1, 6), 10, np.float32)
    lay(image, level, 20, edge=0.1, strength=0.5)
    np.testing.assert_allclose(image, [[10, 10, 12.5, 13.75, 15, 15]], atol=1e-5)
    colour = np.zeros((1, 6, 3), np.float32)
    lay(colour, level, [1, 2, 4], edge=0.1)
    np.testing.assert_allclose(colour[0, 2], [0.5, 1, 2], atol=1e-6)
