"""PNG, JPEG, TIFF, BMP: one slice a page, 8 or 16 bit, float TIFF. Bytes are decoded by another process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydantic import Field

from omnifed.config import Frozen
from omnifed.data.readers.base import MAX_PIXELS, MAX_VOXELS, Picture, Slice, check_size
from omnifed.data.readers.pieces import flat
from omnifed.data.sandbox.failures import refused, unbelievable
from omnifed.data.sandbox.limits import limits_for
from omnifed.data.sandbox.process import SANDBOX


class _Count(Frozen):
    """Answer of the question "raster pages"."""

    count: int = Field(ge=1, le=1024)


def read(path: Path, *, slice_axis: int = 2, voi: bool = False) -> Picture:
    """Reads every page of a raster image.

    Args:
        path: the file; neither ``slice_axis`` nor ``voi`` means anything here.
        slice_axis: ignored.
        voi: ignored.

    Raises:
        OmniFedError: OF211 not an image, OF212 damaged, OF213 too large, OF880..OF883.
    """
    pages = _pages(path, mask=False)
    return Picture(tuple(Slice(page, frame=i + 1, number=i) for i, page in enumerate(pages)))


def read_mask(path: Path, picture: Picture) -> list[np.ndarray]:
    """Reads a mask: one page for each slice of ``picture``.

    Returns:
        (H, W) arrays of file values, in the order of ``picture.slices``.

    Raises:
        OmniFedError: as :func:`read`, and OF219 if the pages do not fit the slices, OF221 for a colour picture.
    """
    pages = _pages(path, mask=True)
    volume = len(picture.slices) + len(picture.failed)
    if len(pages) != volume or (volume > 1 and picture.slices[0].plane is not None):
        raise refused("OF219", f"{path}: {len(pages)} pages for {volume} slices")
    return [flat(pages[piece.number], path) for piece in picture.slices]


def _pages(path: Path, *, mask: bool) -> list[np.ndarray]:
    pages: list[np.ndarray] = []
    while True:
        answer, arrays = SANDBOX.ask(
            "raster pages", {"path": str(path), "mask": mask, "first": len(pages)},
            limits_for(path.stat().st_size), _Count, about=str(path), room=8 * MAX_PIXELS,
        )  # fmt: skip
        if not arrays or any(a.ndim not in (2, 3) or a.shape[2:] not in ((), (3,)) for a in arrays):
            raise unbelievable(f"{path}: pages of another form")
        pages += arrays
        check_size((sum(page.shape[0] * page.shape[1] for page in pages),), path, limit=MAX_VOXELS)
        if len(pages) >= answer.count:
            return pages
