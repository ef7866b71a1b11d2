"""Small training material made by hand: bright discs on noise, and a network that learns them in seconds."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from omnifed.data.prepared import Prepared
from omnifed.models.base import BOTTLENECK, Out, SiteSpec


def make_discs(n: int = 12, side: int = 32, *, labelled: int | None = None, seed: int = 0) -> Prepared:
    """n grey images of a bright disc; the first ``labelled`` of them have a mask."""
    draw = np.random.default_rng(seed)
    masks = np.zeros((n, side, side), np.uint8)
    rows, columns = np.mgrid[:side, :side]
    for mask in masks:
        y, x = draw.uniform(side * 0.35, side * 0.65, 2)
        mask[(rows - y) ** 2 + (columns - x) ** 2 < draw.uniform(side * 0.15, side * 0.3) ** 2] = 1
    images = (masks[:, None] * 2.0 - 1 + draw.normal(0, 0.3, (n, 1, side, side))).astype(np.float16)
    has_mask = np.arange(n) < (n if labelled is None else labelled)
    masks[~has_mask] = 255
    return Prepared(
        spec=SiteSpec(1, 2, 2, "microscopy"),
        images=images,
        masks=masks,
        has_mask=has_mask,
        patients=tuple(f"p{i}" for i in range(n)),
        ids=tuple(f"c{i}" for i in range(n)),
        keys=tuple(f"k{seed}-{i}" for i in range(n)),
        spacing=np.full((n, 2), np.nan, np.float32),
        present=np.array([True, True]),
    )


class TinyNet(nn.Module):
    """Two convolutions with a norm: 1.3 k parameters."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.body = nn.Sequential(nn.Conv2d(1, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU())
            self.deep = nn.Sequential(nn.AvgPool2d(4), nn.Conv2d(12, 8, 3, padding=1), nn.ReLU())
            self.head = nn.Conv2d(20, 2, 1)

    @property
    def feature_channels(self) -> dict[str, int]:
        return {BOTTLENECK: 8}

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Out:
        shallow = self.body(x)
        deep = self.deep(shallow)
        wide = nn.functional.interpolate(deep, x.shape[-2:], mode="nearest")
        return Out(self.head(torch.cat([shallow, wide], 1)), {BOTTLENECK: deep})
