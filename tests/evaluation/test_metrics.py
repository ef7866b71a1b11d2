from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from monai.metrics import compute_hausdorff_distance, compute_surface_dice

from omnifed.data.site import IGNORE
from omnifed.errors import OmniFedError
from omnifed.evaluation.metrics import NSD_TOLERANCE, dice_by_case, mean_dice, score_cases


def block(rows: slice, columns: slice, size: int = 16, value: int = 1) -> np.ndarray:
    mask = np.zeros((1, size, size), np.uint8)
    mask[0, rows, columns] = value
    return mask


def test_numbers_made_by_hand(split):
    truth = block(slice(4, 8), slice(4, 8))
    pred = block(slice(4, 8), slice(6, 10))  # shifted by 2: 8 of 16 + 16 pixels agree
    scores = score_cases(pred, split(truth))
    assert scores.values.shape == (1, 1, 4)
    dice, iou, hd95, nsd = scores.values[0, 0]
    assert (dice, iou, hd95, nsd) == pytest.approx((0.5, 8 / 24, 2.0, 1.0), abs=1e-6)
    assert scores.unit == "px"
    assert mean_dice(pred, split(truth)) == pytest.approx(0.5)


def test_distances_are_in_mm_where_the_spacing_is_known(split):
    truth, pred = block(slice(4, 8), slice(4, 8)), block(slice(4, 8), slice(8, 12))
    scores = score_cases(pred, split(truth, spacing=0.5))
    # Each column of a contour is 4 px = 2 mm from its twin or nearer: all of it is within 2 mm.
    assert scores.unit == "mm"
    assert scores.values[0, 0, 2:] == pytest.approx((2.0, 1.0))
    # At 1 mm the columns at 1, 2 mm count, those at 3, 4 mm do not: 6 of the 12 contour pixels on each side.
    wide = score_cases(pred, split(truth, spacing=1.0)).values[0, 0]
    assert wide[2:] == pytest.approx((4.0, 0.5))


def test_one_unknown_spacing_makes_the_whole_split_pixels(split):
    prepared = split(np.concatenate([block(slice(2, 6), slice(2, 6))] * 2), spacing=0.5)
    prepared.spacing[1] = np.nan
    assert score_cases(np.asarray(prepared.masks), prepared).unit == "px"


def test_undefined_cases(split):
    truth = np.concatenate([block(slice(0, 4), slice(0, 4)), np.zeros((2, 16, 16), np.uint8)])
    pred = np.concatenate([np.zeros((2, 16, 16), np.uint8), block(slice(0, 4), slice(0, 4))])
    values = score_cases(pred, split(truth)).values[:, 0]
    diagonal = np.hypot(16, 16)
    assert values[0] == pytest.approx((0, 0, diagonal, 0))  # missed
    assert np.isnan(values[1]).all()  # nothing there, nothing said
    assert values[2] == pytest.approx((0, 0, diagonal, 0))  # invented
    assert mean_dice(pred, split(truth)) == 0.0


def test_a_class_in_neither_does_not_count_in_the_mean_of_its_case(split):
    truth = block(slice(0, 4), slice(0, 4))
    assert mean_dice(truth, split(truth, classes=5)) == 1.0


def test_cases_without_a_mask_do_not_count(split):
    truth = np.concatenate([block(slice(0, 4), slice(0, 4)), np.full((1, 16, 16), IGNORE)])
    pred = np.concatenate([block(slice(0, 4), slice(0, 4))] * 2)
    prepared = split(truth, has_mask=[True, False])
    scores = score_cases(pred, prepared)
    assert (scores.ids, scores.patients) == (("c0",), ("p0",))
    assert mean_dice(pred, prepared) == 1.0
    assert np.isnan(dice_by_case(pred, prepared)[1]).all()


def test_ignored_pixels_do_not_count(split):
    truth, pred = block(slice(0, 4), slice(0, 4)), block(slice(0, 8), slice(0, 4))
    truth[0, 4:8] = IGNORE
    assert score_cases(pred, split(truth)).values[0, 0, :2] == pytest.approx((1, 1))
    assert mean_dice(pred, split(truth)) == 1.0


def test_never_nan(split):
    empty = np.zeros((2, 16, 16), np.uint8)
    assert mean_dice(empty, split(empty)) == 1.0
    assert mean_dice(empty, split(empty, has_mask=False)) == 0.0
    assert mean_dice(empty[:0], split(empty[:0])) == 0.0
    assert len(score_cases(empty, split(empty, has_mask=False))) == 0


@pytest.mark.parametrize("pred", [np.zeros((1, 8, 8), np.uint8), np.full((1, 16, 16), 7, np.uint8)])
def test_a_prediction_that_does_not_fit_is_refused(split, pred):
    with pytest.raises(OmniFedError) as error:
        score_cases(pred, split(block(slice(0, 4), slice(0, 4))))
    assert error.value.code == "OF420"


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**32 - 1), st.integers(2, 4))
def test_the_fast_dice_is_monais(split, seed, classes):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, (3, 8, 8)).astype(np.uint8) * (rng.random((3, 1, 1)) < 0.7)
    pred = rng.integers(0, classes, (3, 8, 8)).astype(np.uint8) * (rng.random((3, 1, 1)) < 0.7)
    prepared = split(truth, classes=classes)
    values = score_cases(pred, prepared).values
    assert np.allclose(values[:, :, 0], dice_by_case(pred, prepared), equal_nan=True)
    dice, iou = values[:, :, 0], values[:, :, 1]
    assert np.allclose(iou, dice / (2 - dice), equal_nan=True)
    assert np.nanmin(values, initial=0) >= 0
    assert np.nanmax(values[:, :, [0, 1, 3]], initial=0) <= 1


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**32 - 1), st.sampled_from([np.nan, 0.3, 0.7, 2.5]))
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_surface_metrics_are_monais(split, seed, spacing):
    rng = np.random.default_rng(seed)
    masks = []
    for _ in range(2):
        rows, columns = (slice(*sorted(rng.choice(25, 2, replace=False))) for _ in range(2))
        masks.append(block(rows, columns, size=24) | (rng.random((1, 24, 24)) < 0.01))
    truth, pred = masks
    values = score_cases(pred, split(truth, spacing=spacing)).values[0, 0]
    a, b = (torch.from_numpy(m)[None].float() for m in (pred, truth))
    step = 1.0 if np.isnan(spacing) else float(np.float32(spacing))
    hd95 = compute_hausdorff_distance(a, b, include_background=True, percentile=95, spacing=step)
    nsd = compute_surface_dice(a, b, [NSD_TOLERANCE], include_background=True, spacing=step)
    assert values[2:] == pytest.approx([float(hd95), float(nsd)], rel=1e-5)
