"""A split of a site, decoded once: memory-mapped arrays that training and evaluation read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from omnifed.models.base import SiteSpec


@dataclass(frozen=True)
class Prepared:
    """N slices of one split.

    Attributes:
        spec: channels and classes.
        images: (N, C, H, W) float16, normalised; a memory map.
        masks: (N, H, W) uint8 label ids; ``IGNORE`` (255) everywhere where there is no mask.
        has_mask: (N,) bool.
        patients: N patient keys (stay at the site).
        ids: N case ids, salted hashes: safe to print.
        keys: N content hashes of image and preprocessing: the key of the teacher's cache.
        spacing: (N, 2) float32 row and column spacing of the prepared pixels in mm; NaN where unknown.
        present: (classes,) bool, the classes that occur in the site's training masks; others are ignored by the loss.
    """

    spec: SiteSpec
    images: np.ndarray
    masks: np.ndarray
    has_mask: np.ndarray
    patients: tuple[str, ...]
    ids: tuple[str, ...]
    keys: tuple[str, ...]
    spacing: np.ndarray
    present: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)
