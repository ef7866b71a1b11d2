"""One image through an exported model: to the network's size and back, or by overlapping tiles."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from PIL import Image

from omnifed.data.normalise import resize_image
from omnifed.export.card import ExportCard, View

_STRIP = 2**21
"""Logits enlarged at a time (8 MiB as float32): a large photograph must not take (classes, H, W) floats."""


class Model(Protocol):
    """What prediction needs of :class:`omnifed.export.session.Session`."""

    card: ExportCard
    sha256: str

    def logits(self, batch: np.ndarray) -> np.ndarray:
        """(B, C, h, w) to (B, classes, h, w), float32."""


def segment(model: Model, image: np.ndarray, view: View) -> np.ndarray:
    """Segments one image.

    ``resize``: shrunk or enlarged as in training; the logits are brought back bilinearly, then the largest wins.
    ``window``: tiles of the network's size at the image's own resolution, overlapping by half, logits weighted by a
    Gaussian of a standard deviation of 1/8 tile. One image a run: on one thread a batch gains nothing (compact student
    with stem_stride=2, CPU ms an image: 13.4 alone, 13.8 by four, 14.9 by eight).

    Args:
        model: the network.
        image: (C, H, W) float32, normalised.
        view: how it is shown to the network.

    Returns:
        (H, W) uint8 label ids.
    """
    size = model.card.image_size
    if view == "window":
        return _tiled(model, image, size)
    return _largest(_logits(model, resize_image(image, size)), (image.shape[1], image.shape[2]))


def _logits(model: Model, image: np.ndarray) -> np.ndarray:
    # Rounded to half precision, in which prepared images are stored: the network sees the very numbers of training.
    return model.logits(image.astype(np.float16).astype(np.float32)[None])[0]


def _largest(logits: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Label of the largest of (K, h, w) logits at each of (H, W) pixels, computed in strips of rows."""
    height, width = size
    rows = max(1, _STRIP // (len(logits) * width))
    scale = logits.shape[1] / height
    planes = [Image.fromarray(plane) for plane in logits]
    mask = np.empty(size, np.uint8)
    for top in range(0, height, rows):
        end = min(top + rows, height)
        box = (0, top * scale, logits.shape[2], end * scale)
        strip = [np.asarray(p.resize((width, end - top), Image.Resampling.BILINEAR, box)) for p in planes]
        mask[top:end] = _argmax(strip)
    return mask


def _argmax(planes: list[np.ndarray] | np.ndarray) -> np.ndarray:
    """``np.argmax`` along the first axis, several times faster for few classes; the first of equals wins, as there."""
    best, label = planes[0].copy(), np.zeros(planes[0].shape, np.uint8)
    for k in range(1, len(planes)):
        higher = planes[k] > best
        label[higher] = k
        np.maximum(best, planes[k], out=best)
    return label


def _tiled(model: Model, image: np.ndarray, tile: tuple[int, int]) -> np.ndarray:
    height, width = image.shape[1:]
    padded = np.pad(
        image, [(0, 0), (0, max(0, tile[0] - height)), (0, max(0, tile[1] - width))], mode="edge"
    )  # what a crop would have shown there is not known; the border goes on
    tops, lefts = (starts(side, part) for side, part in zip(padded.shape[1:], tile, strict=True))
    weight = np.outer(_bell(tile[0]), _bell(tile[1]))
    mask = np.empty(padded.shape[1:], np.uint8)
    # Only one row of tiles is in memory. The weights' sum is the same for all classes: the largest needs no division.
    band = np.zeros((len(model.card.labels), tile[0], padded.shape[2]), np.float32)
    for top, after in zip(tops, [*tops[1:], padded.shape[1]], strict=True):
        for left in lefts:
            part = padded[:, top : top + tile[0], left : left + tile[1]]
            band[:, :, left : left + tile[1]] += weight * _logits(model, part)
        ready = after - top
        mask[top:after] = _argmax(band[:, :ready])
        band = np.concatenate([band[:, ready:], np.zeros_like(band[:, :ready])], axis=1)
    return mask[:height, :width]


def starts(side: int, tile: int) -> list[int]:
    """First pixels of the tiles along one axis: every half tile, the last one flush with the end."""
    return [*range(0, side - tile, tile // 2), side - tile]


def _bell(side: int) -> np.ndarray:
    at = (np.arange(side, dtype=np.float32) - (side - 1) / 2) / (side / 8)
    return np.exp(-at * at / 2).astype(np.float32)
