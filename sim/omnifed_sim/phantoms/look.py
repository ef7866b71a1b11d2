"""The scanner: what makes the same anatomy look different at another hospital."""

from __future__ import annotations

import numpy as np
from pydantic import Field
from scipy.ndimage import gaussian_filter

from omnifed.config import Frozen
from omnifed_sim.phantoms.shapes import Array, field


class Look(Frozen):
    """A scanner and what it sees; the defaults are an average one.

    Attributes:
        contrast: factor on intensity differences.
        brightness: offset as a share of the modality's range.
        gamma: exponent of the gain curve (RGB, OCT and MR; Hounsfield units are calibrated and keep 1).
        noise: factor on the modality's own noise.
        blur: Gaussian deviation in 1/128 of the image's width (resolution, reconstruction kernel, focus).
        bias: strength of the slow shading field (coil sensitivity, lamp), 0 for none.
        tint: factors on red, green, blue (RGB modalities only).
        phase: 0..1: contrast phase of CT (native to portal venous), weighting of MR (T1 to T2).
        distractors: factor on the number and strength of what only looks like a label.
        rare: chance that an image's rare structure is there at all.
    """

    contrast: float = Field(1.0, gt=0)
    brightness: float = 0.0
    gamma: float = Field(1.0, gt=0)
    noise: float = Field(1.0, ge=0)
    blur: float = Field(0.5, ge=0)
    bias: float = Field(0.15, ge=0, lt=1)
    tint: tuple[float, float, float] = (1.0, 1.0, 1.0)
    phase: float = Field(0.3, ge=0, le=1)
    distractors: float = Field(1.0, ge=0)
    rare: float = Field(0.6, ge=0, le=1)


def random_look(rng: np.random.Generator) -> Look:
    """A scanner drawn at random, for streams that must not depend on any one site's."""
    tint = rng.uniform(0.88, 1.12, 3)
    return Look(
        contrast=rng.uniform(0.75, 1.25),
        brightness=rng.uniform(-0.08, 0.08),
        gamma=rng.uniform(0.75, 1.35),
        noise=rng.uniform(0.4, 1.8),
        blur=rng.uniform(0.2, 1.1),
        bias=rng.uniform(0.0, 0.35),
        tint=(tint[0], tint[1], tint[2]),
        phase=rng.uniform(0.0, 0.45),
        distractors=rng.uniform(0.5, 1.5),
        rare=rng.uniform(0.3, 0.9),
    )


def acquire(image: Array, rng: np.random.Generator, look: Look, *, noise: float, multiplicative: bool = True) -> Array:
    """Sends an ideal image through the scanner: blur, shading, gain, correlated noise.

    Args:
        image: shape (H, W) or (H, W, 3), values 0..1 (a little outside is welcome).
        rng: of this shot.
        look: the scanner.
        noise: the modality's own noise as a deviation on the 0..1 scale.
        multiplicative: whether shading multiplies (MR coils, lamps) or adds (CT beam hardening).

    Returns:
        The same shape, float32, not clipped.
    """
    size = image.shape[0]
    sigma = look.blur * size / 128
    if sigma > 0.15:
        image = gaussian_filter(image, (sigma, sigma, 0)[: image.ndim])
    shade = look.bias * field(rng, size, 3)
    if image.ndim == 3:
        shade = shade[..., None]
    image = image * np.exp(shade) if multiplicative else image + 0.15 * shade
    if look.gamma != 1.0:
        image = np.maximum(image, 0) ** look.gamma
    image = (image - 0.5) * look.contrast + 0.5 + look.brightness
    if image.ndim == 3:
        image = image * np.asarray(look.tint, np.float32)
    grain = rng.standard_normal(image.shape, np.float32)
    grain = 0.6 * grain + 0.9 * gaussian_filter(grain, (0.8, 0.8, 0)[: image.ndim])
    return np.asarray(image + noise * look.noise * grain, np.float32)
