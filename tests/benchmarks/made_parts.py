"""Sites made by hand: black images and the masks that a test gives."""

from __future__ import annotations

import numpy as np
from edge.sites import Part

from omnifed.data.prepare import SiteData
from omnifed.data.prepared import Prepared
from omnifed.data.site import Normalisation, SiteConfig
from omnifed.models.base import SiteSpec


def make_split(channels: int, masks: list[np.ndarray], classes: int) -> Prepared:
    n, side = len(masks), masks[0].shape[0]
    return Prepared(
        spec=SiteSpec(channels, classes, 2, "xray"),
        images=np.zeros((n, channels, side, side), np.float16),
        masks=np.stack(masks).astype(np.uint8),
        has_mask=np.ones(n, bool),
        patients=tuple(f"p{i}" for i in range(n)),
        ids=tuple(f"c{i}" for i in range(n)),
        keys=tuple(f"k{i}" for i in range(n)),
        spacing=np.full((n, 2), np.nan, np.float32),
        present=np.ones(classes, bool),
    )


def make_part(name: str, channels: int, classes: tuple[int, ...], masks: list[np.ndarray]) -> Part:
    labels = {i: f"label-{i}" for i in range(len(classes))}
    config = SiteConfig(
        name=name, modality="xray", labels=labels, channels=channels, normalisation=Normalisation(kind="minmax")
    )
    split = make_split(channels, masks, len(classes))
    return Part(SiteData(config, split, split, split, (), ()), classes)
