"""Label values: one a pixel, gathered into as few bytes as they need."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from omnifed.data.sandbox.failures import refused

_MANY = 4096
"""Values that are told of one mask: whoever asks refuses a hundredth of that as no label map."""


def pieces_of(raw: Iterator[np.ndarray], count: int, whole: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Gathers pieces of a label map.

    Args:
        raw: its pieces, in order.
        count: elements of all together.
        whole: makes integers of a piece.

    Returns:
        (count,) uint8, or int32 or int64 where a value needs it: masks are often stored in eight bytes a voxel.
    """
    data, at = np.empty(count, np.uint8), 0
    for piece in raw:
        values = whole(piece)
        low, high = int(values.min()), int(values.max())
        for kind in (np.uint8, np.int32, np.int64):
            bounds = np.iinfo(kind)
            if np.dtype(kind).itemsize >= data.itemsize and bounds.min <= low and high <= bounds.max:
                data = data if data.dtype == kind else data.astype(kind)
                break
        else:
            raise OverflowError
        data[at : at + len(values)] = values
        at += len(values)
    return data


def few(values: np.ndarray) -> dict[str, Any]:
    """Values without names as the answer to what a mask holds."""
    return {"values": [[int(value), ""] for value in values[:_MANY]]}


def flat(mask: np.ndarray, path: Path) -> np.ndarray:
    """A raster mask, (H, W) or (H, W, 3) grey, as (H, W); OF221 for a colour picture."""
    if mask.ndim == 2:
        return mask
    if (mask == mask[..., :1]).all():
        return mask[..., 0]
    raise refused("OF221", f"{path}: a colour picture")
