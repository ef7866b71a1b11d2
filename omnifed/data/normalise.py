"""Raw intensities to network input, one rule a modality, and the resize to the site's size."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from omnifed.data.site import Modality, Normalisation
from omnifed.errors import OmniFedError

MEAN = np.array([0.485, 0.456, 0.406], np.float32)
DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)
"""ImageNet's, of red, green and blue in 0..1."""
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""ITU-R BT.601."""
_SAMPLE = 2**20


def default_normalisation(modality: Modality, channels: int) -> Normalisation:
    """The normalisation that a modality gets unless site.toml says otherwise (window: soft tissue in HU)."""
    if channels == 3 and modality not in ("ct", "mri", "brain-mri", "xray", "oct"):
        return Normalisation(kind="rgb")
    if modality == "ct":
        return Normalisation(kind="window")
    return Normalisation(kind="percentile" if modality in ("mri", "brain-mri") else "minmax")


@dataclass(frozen=True)
class Scale:
    """What ``percentile``, ``minmax`` and ``window`` need of a whole case.

    Attributes:
        low, high: the range, in the image's units.
        mean, deviation: of the values clipped to the range, for ``percentile``.
    """

    low: float
    high: float
    mean: float = 0.0
    deviation: float = 1.0


def normalise(images: Sequence[np.ndarray], how: Normalisation, channels: int) -> list[np.ndarray]:
    """Normalises the slices of one case together: percentiles, mean and deviation are those of the whole volume.

    ``window``: 2 (x - low) / (high - low) - 1, clipped to -1..1. ``percentile``: clipped to the percentiles, then
    (x - mean) / deviation. ``minmax``: as window, between the percentiles. ``rgb``: x / largest value of the type,
    then ImageNet's mean and deviation. A constant image becomes 0.

    Args:
        images: (H, W) or (H, W, 3) each, native type.
        how: the rule.
        channels: 1 or 3; grey is repeated, colour becomes luminance.

    Returns:
        (channels, H, W) float32 each.

    Raises:
        OmniFedError: OF217 if a pixel is not finite.
    """
    planes = [to_channels(image, channels) for image in images]
    scale = case_scale(planes, sum(plane.size for plane in planes), how)
    return [apply_scale(plane, image, how, scale) for plane, image in zip(planes, images, strict=True)]


def case_scale(planes: Iterable[np.ndarray], count: int, how: Normalisation) -> Scale:
    """What the rule needs of the whole case. ``planes`` are read only where the rule depends on their values.

    Args:
        planes: (channels, H, W) float32 each, of :func:`to_channels`; may be a stream.
        count: values in all of them together; about 2^20 of them, evenly spaced, are looked at.
        how: the rule.
    """
    if how.kind == "rgb":
        return Scale(0, 1)
    if how.kind == "window":
        return Scale(*how.window)
    step = max(1, count // _SAMPLE)
    values = np.concatenate([plane.ravel()[::step].copy() for plane in planes])  # a view would keep its plane alive
    low, high = (float(v) for v in np.percentile(values, how.percentiles))
    if how.kind == "minmax":
        return Scale(low, high)
    values = np.clip(values, low, high)
    return Scale(low, high, float(values.mean()), float(values.std()) or 1.0)


def apply_scale(plane: np.ndarray, image: np.ndarray, how: Normalisation, scale: Scale) -> np.ndarray:
    """Normalises one slice.

    Args:
        plane: (channels, H, W) float32, of :func:`to_channels`.
        image: what it was made from; for ``rgb`` its type says what white is.
        how: the rule.
        scale: of the whole case.

    Returns:
        (channels, H, W) float32.
    """
    if how.kind == "rgb":
        three = len(plane) == 3
        mean, deviation = (MEAN, DEVIATION) if three else (MEAN.mean()[None], DEVIATION.mean()[None])
        shift = (mean / deviation)[:, None, None]
        out = plane * (1 / (_white(image) * deviation))[:, None, None]
        out -= shift
        return out
    low, high = scale.low, scale.high
    if not high - low > np.finfo(np.float32).tiny:  # below, 2 / (high - low) is no float32
        return np.zeros_like(plane)
    # In place after the first step: a photograph of 24 Mpx is 288 MB as float32.
    if how.kind == "percentile":
        out = np.clip(plane, low, high)
        out -= np.float32(scale.mean)
        out /= np.float32(scale.deviation)
        return out
    out = plane - np.float32(low)
    out *= np.float32(2 / (high - low))
    out -= np.float32(1)
    return np.clip(out, -1, 1, out=out)


def check_finite(image: np.ndarray) -> None:
    """Refuses NaN and infinity.

    Raises:
        OmniFedError: OF217.
    """
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        raise OmniFedError(
            "OF217",
            "Every pixel of an image must be a finite number.",
            seen=f"{int((~np.isfinite(image)).sum())} pixels are NaN or infinite",
            remedy="Export the image again, or remove the row from the index.",
        )


def to_channels(image: np.ndarray, channels: int) -> np.ndarray:
    """(H, W) or (H, W, 3) of any type to (channels, H, W) float32: grey is repeated, colour becomes luminance.

    Raises:
        OmniFedError: OF217 if a pixel is not finite.
    """
    check_finite(image)
    plane = image.astype(np.float32)
    if plane.ndim == 3:
        return np.ascontiguousarray(plane.transpose(2, 0, 1)) if channels == 3 else (plane @ _LUMA)[None]
    return np.repeat(plane[None], channels, axis=0)


def _white(image: np.ndarray) -> np.float32:
    if image.dtype.kind in "ui":
        return np.float32(np.iinfo(image.dtype).max)
    top = float(image.max())
    return np.float32(1.0 if top <= 1 else 255.0 if top <= 255 else top)


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes (C, H, W) float32 bilinearly, with antialiasing where it shrinks, to (C, *size)."""
    if image.shape[1:] == size:
        return image
    height, width = size
    return np.stack([np.asarray(Image.fromarray(c).resize((width, height), Image.Resampling.BILINEAR)) for c in image])


def resize_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes (H, W) uint8 to ``size`` by the nearest pixel."""
    height, width = size
    return np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))
