"""Dice, IoU, HD95 and NSD a case and class, by MONAI; and a fast mean Dice for the validations of a fit.

Undefined cases, in all that the framework reports:

- a class absent from truth *and* prediction is not counted (NaN);
- a class absent from one of the two scores 0 for Dice, IoU and NSD, and the image's diagonal for HD95, the largest
  distance that the image allows, as nothing is close to a contour that is not there;
- a case without a mask is not counted; pixels marked ``IGNORE`` count as background in truth and prediction.

HD95 is the 95th percentile of the surface distance (the larger of both directions). NSD, the share of both surfaces
that lies within :data:`NSD_TOLERANCE` of the other (Nikolov et al., 2018). Both are in mm where the pixel spacing of
every scored case is known, otherwise in pixels for the whole split, so that no mean mixes the two.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from omnifed.data.prepared import Prepared
from omnifed.data.site import IGNORE
from omnifed.errors import OmniFedError
from omnifed.evaluation.score import METRICS, Metric

if TYPE_CHECKING:
    import torch

NSD_TOLERANCE = 2.0
"""Distance within which a surface point counts as right: 2 mm, or 2 pixels where the spacing is unknown."""

_CHUNK = 64


@dataclass(frozen=True)
class CaseScores:
    """Scores a case; they stay at the site.

    Attributes:
        values: (N, classes - 1, M) float64, foreground classes by id, NaN where undefined.
        metrics: names along the last axis.
        patients: N patient keys.
        ids: N salted case ids.
        unit: of ``hd95`` and of the tolerance of ``nsd``.
    """

    values: np.ndarray
    patients: tuple[str, ...]
    ids: tuple[str, ...]
    unit: Literal["mm", "px"]
    metrics: tuple[Metric, ...] = METRICS

    def __len__(self) -> int:
        return len(self.ids)


def mean_dice(pred: np.ndarray, prepared: Prepared) -> float:
    """Mean Dice over the cases with a mask, of each case over the foreground classes in truth or prediction.

    Args:
        pred: (N, H, W) uint8 label ids.
        prepared: the split that was predicted.

    Returns:
        0..1, never NaN: 1 where nothing is to be found and nothing was predicted, 0 where no case has a mask.
    """
    _check(pred, prepared)
    rows = np.flatnonzero(prepared.has_mask)
    if not len(rows):
        return 0.0
    dice = dice_by_case(pred, prepared)[rows]
    defined = ~np.isnan(dice)
    counted = defined.any(1)
    if not counted.any():
        return 1.0
    sums, counts = np.where(defined, dice, 0.0).sum(1), defined.sum(1)
    return float((sums[counted] / counts[counted]).mean())


def dice_by_case(pred: np.ndarray, prepared: Prepared) -> np.ndarray:
    """Dice a case and foreground class from one confusion matrix a case: 2 TP / (2 TP + FP + FN).

    Args:
        pred: (N, H, W) uint8 label ids.
        prepared: the split that was predicted.

    Returns:
        (N, classes - 1) float64; NaN where the class is in neither, or the case has no mask.
    """
    _check(pred, prepared)
    classes = prepared.spec.classes
    dice = np.full((len(prepared), classes - 1), np.nan)
    for start in range(0, len(prepared), _CHUNK):
        truth = np.asarray(prepared.masks[start : start + _CHUNK])
        n = len(truth)
        cell = (np.arange(n)[:, None, None] * classes + truth) * classes + pred[start : start + _CHUNK]
        known = truth != IGNORE
        confusion = np.bincount(cell[known], minlength=n * classes * classes).reshape(n, classes, classes)
        both = np.einsum("nkk->nk", confusion)
        total = confusion.sum(1) + confusion.sum(2)
        with np.errstate(invalid="ignore"):
            dice[start : start + n] = (2 * both / total)[:, 1:]
    dice[~np.asarray(prepared.has_mask, bool)] = np.nan
    return dice


def score_cases(pred: np.ndarray, prepared: Prepared) -> CaseScores:
    """Scores every case that has a mask, as the module's text defines.

    Args:
        pred: (N, H, W) uint8 label ids.
        prepared: the split that was predicted.

    Returns:
        Scores of the n cases with a mask (n may be 0).

    Raises:
        OmniFedError: OF420 if ``pred`` does not fit the split.
    """
    _check(pred, prepared)
    rows = np.flatnonzero(prepared.has_mask)
    unit = unit_of(prepared)
    spacing = np.asarray(prepared.spacing, np.float64)[rows] if unit == "mm" else np.ones((len(rows), 2))
    values = np.stack(
        [
            _score(prepared.masks[row], pred[row], prepared.spec.classes, space)
            for row, space in zip(rows, spacing, strict=True)
        ]
        or [np.empty((prepared.spec.classes - 1, len(METRICS)))]
    )[: len(rows)]
    return CaseScores(
        values=values,
        patients=tuple(prepared.patients[row] for row in rows),
        ids=tuple(prepared.ids[row] for row in rows),
        unit=unit,
    )


def unit_of(prepared: Prepared) -> Literal["mm", "px"]:
    """The unit of a split's distances: mm where the spacing of every case with a mask is known, else pixels."""
    spacing = np.asarray(prepared.spacing, np.float64)[np.asarray(prepared.has_mask, bool)]
    return "mm" if len(spacing) and bool((np.isfinite(spacing) & (spacing > 0)).all()) else "px"


def _score(truth: np.ndarray, pred: np.ndarray, classes: int, spacing: np.ndarray) -> np.ndarray:
    """One case: truth and pred (H, W), spacing (2,) to (classes - 1, 4)."""
    known = truth != IGNORE
    ids = np.arange(1, classes)[:, None, None]
    t, p = (truth == ids) & known, (pred == ids) & known
    in_truth, in_pred = t.any((1, 2)), p.any((1, 2))
    values = np.full((classes - 1, len(METRICS)), np.nan)
    values[in_truth ^ in_pred] = (0.0, 0.0, float(np.hypot(*(spacing * truth.shape))), 0.0)
    both = in_truth & in_pred
    if both.any():
        # MONAI takes seconds and 280 MiB to load: what only exports or adopts a model computes Dice alone, without it.
        import torch
        from monai.metrics import compute_dice, compute_iou

        a, b = torch.from_numpy(p[both])[None], torch.from_numpy(t[both])[None]
        overlap = torch.stack([compute_dice(a.float(), b.float())[0], compute_iou(a.float(), b.float())[0]], dim=1)
        surface = [_surface(x, y, spacing) for x, y in zip(a[0], b[0], strict=True)]
        values[both] = np.concatenate([overlap.double().numpy(), np.array(surface)], axis=1)
    return values


def _surface(pred: torch.Tensor, truth: torch.Tensor, spacing: np.ndarray) -> tuple[float, float]:
    """HD95 and NSD of two masks (H, W) that are not empty.

    What ``compute_hausdorff_distance`` and ``compute_surface_dice`` of MONAI give (a test holds them equal), but the
    contours and their distances, nearly all of the work, are computed once for both.
    """
    from monai.metrics.utils import get_edge_surface_distance  # see _score

    with warnings.catch_warnings():
        # MONAI warns of an argument of its own that it deprecates.
        warnings.filterwarnings("ignore", category=FutureWarning, module="monai")
        _, distances, _ = get_edge_surface_distance(pred, truth, spacing=spacing.tolist(), symmetric=True)
    there, back = (d.double().numpy() for d in distances)
    within = np.concatenate([there, back]) <= NSD_TOLERANCE
    return max(float(np.percentile(d, 95)) for d in (there, back)), float(within.mean())


def _check(pred: np.ndarray, prepared: Prepared) -> None:
    if pred.shape != prepared.masks.shape:
        raise OmniFedError(
            "OF420",
            "A prediction must have one label map for each case of the split, of the size of its mask.",
            seen=f"prediction {pred.shape}, masks {prepared.masks.shape}",
            remedy="Predict the same split that is scored, at the site's image_size.",
        )
    highest = int(pred.max(initial=0))
    if highest >= prepared.spec.classes:
        raise OmniFedError(
            "OF420",
            "A prediction must hold label ids of the site only.",
            seen=f"label {highest}, the site has {prepared.spec.classes} classes",
            remedy="Use a model that was built for this site's labels.",
        )
