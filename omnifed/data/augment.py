"""The paper's augmentation: flips, rotation, scaling, affine, elastic, contrast and intensity jitter.

MONAI draws, case by case from a given seed; a whole batch is then warped by one ``grid_sample``. The sampling grid is a
function of normalised coordinates, so the very same deformation is applied to the image, the label and the smaller maps
of a teacher. Intensity changes touch the image only.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


@contextmanager
def _hidden(*names: str) -> Iterator[None]:
    """Packages that cannot be imported within the block; those that are loaded already stay."""
    hidden = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


# MONAI imports whatever is installed. These two serve networks and bundles that are not used here, and are half of its
# time (5 s) and 50 MiB of each process.
with _hidden("transformers", "jsonschema"):
    from monai.transforms import (
        RandAdjustContrast,
        RandAffineGrid,
        RandDeformGrid,
        RandScaleIntensity,
        RandShiftIntensity,
    )
    from monai.transforms.utils import create_rotate, create_scale, create_shear

UPRIGHT = frozenset({"ct", "mri", "brain-mri", "oct", "xray"})
"""Modalities whose images have an up and a down: they are mirrored left-right only."""

CONTROL = (5, 5)
"""Control points of the elastic field."""


@dataclass
class Draws:
    """The random numbers of one batch of B images.

    Attributes:
        theta: (B, 2, 3) affine map from output to input positions, both (x, y) in -1..1.
        offset: (B, 2, *CONTROL) elastic displacement (x, y) at control points, in the same units.
        gamma: (B,) exponent of the contrast change, 1 for none.
        factor: (B,) intensity factor, 1 for none.
        shift: (B,) intensity offset in normalised units.
    """

    theta: Tensor
    offset: Tensor
    gamma: Tensor
    factor: Tensor
    shift: Tensor


class Augment:
    """Draws by MONAI and their batched application.

    Args:
        modality: decides whether images are also mirrored top-bottom (see :data:`UPRIGHT`).
        flips: False for a teacher's maps that do not commute with mirroring.
    """

    def __init__(self, modality: str = "", *, flips: bool = True) -> None:
        self._flips = (flips, flips and modality not in UPRIGHT)
        # 15 degrees, 15 % in size, a shear of 0.1, 5 % of the side (0.1 in -1..1), and 2 % of it for the elastic field.
        self._affine = RandAffineGrid(
            rotate_range=0.26, shear_range=(0.1,) * 2, translate_range=(0.1,) * 2, scale_range=(0.15,) * 2
        )
        self._elastic = RandDeformGrid(spacing=1.0, magnitude_range=(0.0, 0.04))
        self._contrast = RandAdjustContrast(prob=0.3, gamma=(0.7, 1.5))
        self._scale = RandScaleIntensity(factors=0.2, prob=0.5)
        self._shift = RandShiftIntensity(offsets=0.2, prob=0.5)

    def draw(self, seeds: Sequence[int], size: tuple[int, int]) -> Draws:
        """Draws for one batch; a pure function of the seeds.

        Args:
            seeds: one an image, 0..2**32-1.
            size: height and width in pixels: a rotation keeps angles in images that are not square.
        """
        rows = [self._draw_one(seed, size) for seed in seeds]
        theta, offset, gamma, factor, shift = (torch.from_numpy(np.stack(x)) for x in zip(*rows, strict=True))
        return Draws(theta, offset, gamma, factor, shift)

    def _draw_one(self, seed: int, size: tuple[int, int]) -> tuple[np.ndarray, ...]:
        state = np.random.RandomState(seed)
        for transform in (self._affine, self._elastic, self._contrast, self._scale, self._shift):
            transform.set_random_state(state=state)
        mirror = np.where((state.rand(2) < 0.5) & self._flips, -1.0, 1.0)
        with_affine, with_elastic = state.rand(2) < (0.5, 0.3)
        matrix = np.diag([*mirror, 1.0])
        if with_affine:
            matrix = matrix @ self._draw_affine(size)
        offset = np.zeros((2, *CONTROL), np.float32)
        if with_elastic:
            self._elastic.randomize(CONTROL)
            offset = (self._elastic.random_offset * self._elastic.rand_mag).astype(np.float32)
        for transform in (self._contrast, self._scale, self._shift):
            transform.randomize()
        gamma = self._contrast.gamma_value if self._contrast._do_transform else 1.0
        factor = 1.0 + self._scale.factor if self._scale._do_transform else 1.0
        shift = self._shift._offset if self._shift._do_transform else 0.0
        numbers = (np.asarray(value, np.float32) for value in (gamma, factor, shift))
        return matrix[:2].astype(np.float32), offset, *numbers

    def _draw_affine(self, size: tuple[int, int]) -> np.ndarray:
        affine = self._affine
        affine.randomize()
        turn = np.eye(3)
        for make, drawn in (
            (create_rotate, affine.rotate_params),
            (create_shear, affine.shear_params),
            (create_scale, affine.scale_params),
        ):
            turn = turn @ np.asarray(make(2, drawn or ()))
        pixels = np.diag([size[1] / 2, size[0] / 2, 1.0])
        turn = np.linalg.inv(pixels) @ turn @ pixels
        turn[:2, 2] = affine.translate_params or 0.0
        return turn


def grid(draws: Draws, size: Sequence[int]) -> Tensor:
    """Sampling grid of the drawn deformation on ``size`` pixels.

    Returns:
        (B, H, W, 2) input position (x, y) of each output pixel, -1..1 between the image's edges: the same deformation
        for every ``size``.
    """
    height, width = size
    base = F.affine_grid(draws.theta, [len(draws.theta), 1, height, width], align_corners=False)
    if not draws.offset.any():
        return base
    # Bicubic interpolation is linear and separable: two small products instead of an interpolation of each image.
    rows, columns = _basis(CONTROL[0], height), _basis(CONTROL[1], width)
    return base + torch.einsum("hy,bcyx,wx->bhwc", rows, draws.offset, columns)


@lru_cache
def _basis(points: int, size: int) -> Tensor:
    """(size, points) weights of bicubic interpolation from control points to pixels."""
    unit = torch.eye(points)[None, :, :, None]
    return F.interpolate(unit, (size, 1), mode="bicubic", align_corners=False)[0, :, :, 0].T.contiguous()


def warp(maps: Tensor, where: Tensor, *, nearest: bool = False) -> Tensor:
    """Samples ``maps`` (B, C, H, W) at the grid ``where`` (B, H, W, 2).

    What lies outside is reflected, in image, label and teacher's maps alike: each sampled pixel keeps the label that
    belongs to it, so that nothing must be ignored and no black corner is learned.
    """
    mode = "nearest" if nearest else "bilinear"
    return F.grid_sample(maps, where, mode=mode, padding_mode="reflection", align_corners=False)


def jitter(image: Tensor, draws: Draws) -> Tensor:
    """Contrast ``((x - min) / range) ** gamma * range + min`` and intensity ``x * factor + shift`` of (B, C, H, W)."""
    image = image.clone()
    for row in torch.nonzero(draws.gamma != 1).flatten().tolist():
        low, high = image[row].aminmax()
        span = (high - low).clamp_min(1e-6)
        image[row] = ((image[row] - low) / span) ** draws.gamma[row] * span + low
    shape = (-1, 1, 1, 1)
    return image * draws.factor.view(shape) + draws.shift.view(shape)
