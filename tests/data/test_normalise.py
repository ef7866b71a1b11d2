import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from omnifed.data.normalise import (
    apply_scale,
    case_scale,
    default_normalisation,
    normalise,
    resize_image,
    resize_mask,
    to_channels,
)
from omnifed.data.site import Normalisation
from omnifed.errors import OmniFedError


def test_window_maps_hounsfield_units_to_minus_one_and_one() -> None:
    image = np.array([[-1000, -160], [40, 500]], np.int16)
    (out,) = normalise([image], Normalisation(kind="window", window=(-160, 240)), 1)
    assert out.tolist() == [[[-1, -1], [0, 1]]]


def test_rgb_is_imagenets_for_8_and_16_bit() -> None:
    white = np.full((2, 2, 3), 255, np.uint8)
    (out,) = normalise([white], Normalisation(kind="rgb"), 3)
    np.testing.assert_allclose(out[:, 0, 0], [(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225], rtol=1e-5)
    (deep,) = normalise([np.full((2, 2, 3), 65535, np.uint16)], Normalisation(kind="rgb"), 3)
    np.testing.assert_allclose(deep, out, rtol=1e-5)


def test_colour_becomes_luminance_and_grey_is_repeated() -> None:
    red = np.zeros((2, 2, 3), np.uint8)
    red[..., 0] = 200
    (out,) = normalise([red], Normalisation(kind="window", window=(0, 100)), 1)
    np.testing.assert_allclose(out, np.full((1, 2, 2), 2 * 0.299 * 200 / 100 - 1), rtol=1e-5)
    (grey,) = normalise([np.array([[0, 50], [100, 100]], np.uint8)], Normalisation(kind="window", window=(0, 100)), 3)
    assert grey.shape == (3, 2, 2)
    assert (grey == grey[0]).all()


def test_percentiles_are_those_of_the_whole_volume() -> None:
    dark, bright = np.zeros((4, 4), np.uint8), np.full((4, 4), 200, np.uint8)
    low, high = normalise([dark, bright], Normalisation(kind="percentile", percentiles=(0, 100)), 1)
    assert (low == -1).all()
    assert (high == 1).all()


@pytest.mark.parametrize("kind", ["percentile", "minmax", "window"])
@given(arrays(np.float32, (5, 6), elements=st.floats(-1e6, 1e6, width=32)))
def test_finite_in_finite_out(kind: str, image: np.ndarray) -> None:
    (out,) = normalise([image], Normalisation(kind=kind), 1)
    assert out.dtype == np.float32
    assert np.isfinite(out.astype(np.float16)).all()
    if kind != "percentile":
        assert np.abs(out).max() <= 1


@pytest.mark.parametrize("kind", ["percentile", "minmax"])
def test_a_constant_image_becomes_zero(kind: str) -> None:
    assert (normalise([np.full((3, 3), 7, np.uint8)], Normalisation(kind=kind), 1)[0] == 0).all()


def test_nan_is_refused() -> None:
    with pytest.raises(OmniFedError, match="OF217"):
        normalise([np.array([[np.nan, 1.0]])], Normalisation(kind="minmax"), 1)


def test_defaults_by_modality() -> None:
    kinds = {m: default_normalisation(m, c).kind for m, c in (("ct", 1), ("mri", 1), ("xray", 1), ("fundus", 3))}
    assert kinds == {"ct": "window", "mri": "percentile", "xray": "minmax", "fundus": "rgb"}
    assert default_normalisation("fundus", 1).kind == "minmax"


def test_resizing_averages_the_image_and_keeps_the_labels() -> None:
    stripes = np.tile(np.array([0.0, 1.0], np.float32), (1, 8, 4))
    assert np.abs(resize_image(stripes, (2, 2)) - 0.5).max() < 0.1  # without antialiasing it would be 0 or 1
    mask = np.zeros((8, 8), np.uint8)
    mask[:4], mask[4:] = 3, 255
    assert resize_mask(mask, (2, 2)).tolist() == [[3, 3], [255, 255]]


@pytest.mark.parametrize("kind", ["rgb", "window", "percentile", "minmax"])
def test_a_stream_of_slices_gets_the_numbers_of_the_whole_case(kind: str) -> None:
    case = [np.random.default_rng(k).integers(0, 4000, (700, 800)).astype(np.int16) for k in range(4)]
    how = Normalisation(kind=kind)
    count = 4 * 700 * 800  # more than 2^20: every second value is looked at
    scale = case_scale((to_channels(image, 1) for image in case), count, how)
    for image, whole in zip(case, normalise(case, how, 1), strict=True):
        np.testing.assert_array_equal(apply_scale(to_channels(image, 1), image, how, scale), whole)


def test_a_range_too_small_for_a_float_becomes_zero() -> None:
    image = np.array([[0, 1e-40]], np.float32)
    assert (normalise([image], Normalisation(kind="minmax", percentiles=(0, 100)), 1)[0] == 0).all()
