"""A split made by hand."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from omnifed.data.prepared import Prepared
from omnifed.models.base import SiteSpec


@pytest.fixture
def split() -> Callable[..., Prepared]:
    """Makes a :class:`Prepared` around masks (N, H, W)."""

    def make(masks: np.ndarray, *, classes: int = 2, spacing: float = np.nan, has_mask: object = True) -> Prepared:
        n = len(masks)
        names = tuple(f"c{i}" for i in range(n))
        return Prepared(
            spec=SiteSpec(channels=1, classes=classes),
            images=np.repeat(masks[:, None], 1, 1).astype(np.float16),
            masks=masks.astype(np.uint8),
            has_mask=np.broadcast_to(np.asarray(has_mask, bool), n).copy(),
            patients=tuple(f"p{i // 2}" for i in range(n)),
            ids=names,
            keys=names,
            spacing=np.full((n, 2), spacing, np.float32),
            present=np.ones(classes, bool),
        )

    return make
