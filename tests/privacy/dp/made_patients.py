"""A split made by hand: patients with some slices each, every slice a bright square of its own."""

from __future__ import annotations

import hashlib

import numpy as np

from omnifed.data.prepared import Prepared
from omnifed.models.base import SiteSpec


def made_patients(slices: dict[str, int], *, unlabelled: tuple[str, ...] = (), side: int = 32) -> Prepared:
    """Slices of patients; a slice looks the same whoever else is there."""
    images, masks, patients, names = [], [], [], []
    for patient, count in slices.items():
        for at in range(count):
            name = f"{patient}-{at}"
            draw = np.random.default_rng(list(hashlib.sha256(name.encode()).digest()))
            y, x = draw.integers(2, side - 14, 2)
            image, mask = draw.normal(0, 0.3, (1, side, side)), np.zeros((side, side), np.uint8)
            image[0, y : y + 12, x : x + 12] += 2
            mask[y : y + 12, x : x + 12] = 1
            images.append(image.astype(np.float16))
            masks.append(np.full_like(mask, 255) if patient in unlabelled else mask)
            patients.append(patient)
            names.append(name)
    count = len(names)
    return Prepared(
        spec=SiteSpec(1, 2, 2, "mri"),
        images=np.stack(images),
        masks=np.stack(masks),
        has_mask=np.array([patient not in unlabelled for patient in patients]),
        patients=tuple(patients),
        ids=tuple(names),
        keys=tuple(names),
        spacing=np.full((count, 2), np.nan, np.float32),
        present=np.ones(2, bool),
    )
