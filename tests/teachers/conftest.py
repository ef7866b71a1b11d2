"""A small site of bright discs in noise: learnable within seconds."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from omnifed.data.prepared import Prepared
from omnifed.models.base import SiteSpec

torch.set_num_threads(1)


def discs(n: int, *, seed: int = 0, side: int = 64, unlabelled: int = 0) -> Prepared:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    images, masks = [], []
    for _ in range(n):
        centre, radius = rng.uniform(0.3, 0.7, 2) * side, rng.uniform(0.15, 0.3) * side
        mask = (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2
        images.append((1.5 * mask - 0.5 + rng.normal(0, 0.5, (side, side)))[None])
        masks.append(mask)
    has_mask = np.arange(n) < n - unlabelled
    labels = np.where(has_mask[:, None, None], np.array(masks), 255).astype(np.uint8)
    return Prepared(
        spec=SiteSpec(1, 2, modality="ct"),
        images=np.array(images, np.float16),
        masks=labels,
        has_mask=has_mask,
        patients=tuple(f"p{i}" for i in range(n)),
        ids=tuple(f"id{seed}-{i}" for i in range(n)),
        keys=tuple(f"key{seed}-{i}" for i in range(n)),
        spacing=np.full((n, 2), np.nan, np.float32),
        present=np.ones(2, bool),
    )


@pytest.fixture(scope="session")
def train() -> Prepared:
    return discs(8, seed=1, unlabelled=2)


@pytest.fixture(scope="session")
def val() -> Prepared:
    return discs(4, seed=2)
