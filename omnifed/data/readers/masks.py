"""Masks that another process decodes: DICOM SEG and NIfTI, laid under the slices of a picture."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from omnifed.config import Frozen
from omnifed.data.readers.base import Picture
from omnifed.data.sandbox.failures import unbelievable
from omnifed.data.sandbox.limits import limits_for
from omnifed.data.sandbox.process import SANDBOX, Nothing

_CHUNK = 64 * 2**20
"""Pixels of masks asked for at a time."""
_VALUES = {"dicom": "seg values", "nifti": "nifti values", "raster": "raster values"}


class _Values(Frozen):
    """Answer of the questions that end in "values": value and name."""

    values: tuple[tuple[int, Annotated[str, Field(max_length=64)]], ...] = Field(max_length=4096)


def read_mask(path: Path, picture: Picture, drop: Collection[int], kind: str) -> list[np.ndarray]:
    """Reads the mask of ``picture`` as file values, one (H, W) array a slice, in the order of ``picture.slices``.

    Args:
        path: DICOM SEG or NIfTI.
        picture: the image.
        drop: segments that the site does not use; they may overlap others.
        kind: ``"dicom"`` or ``"nifti"``.

    Raises:
        OmniFedError: OF212..OF224 as the readers say, OF880..OF883.
    """
    size, slices = path.stat().st_size, picture.slices
    sizes = np.array([piece.pixels.shape[:2] for piece in slices], np.int64).reshape(-1, 2)
    unknown = np.full((3, 3), np.nan)
    planes = np.array([unknown if piece.plane is None else piece.plane for piece in slices], np.float64)
    whole = {
        "series": picture.series,
        "uids": [piece.uid for piece in slices],
        "frames": [piece.frame for piece in slices],
        "drop": sorted(drop),
    }
    masks: list[np.ndarray] = []
    while len(masks) < len(slices):
        start = len(masks)
        step = max(1, _CHUNK // int(sizes[start].prod()))
        part = sizes[start : start + step]
        pixels = int(part.prod(1).sum())
        if kind == "dicom":
            name, values, arrays = (
                "seg mask",
                {**whole, "chosen": list(range(start, start + len(part)))},
                [sizes, planes],
            )
        else:
            name, values, arrays = "nifti mask", {}, [part, planes[start : start + step]]
        _, found = SANDBOX.ask(
            name, {"path": str(path), **values}, limits_for(size, pixels=pixels + _voxels(picture)), Nothing,
            about=str(path), room=8 * pixels, arrays=arrays,
        )  # fmt: skip
        kinds = {array.dtype.kind for array in found}
        if [array.shape for array in found] != [tuple(side) for side in part.tolist()] or not kinds <= {"u", "i"}:
            raise unbelievable(f"{path}: masks of another size")
        masks += found
    return masks


def _voxels(picture: Picture) -> int:
    """A label map is decoded as a whole before its first slice."""
    return sum(piece.pixels.shape[0] * piece.pixels.shape[1] for piece in picture.slices)


def mask_values(path: Path, kind: str) -> dict[int, str]:
    """Values that a mask holds, each with its name where the file states one.

    Raises:
        OmniFedError: OF211..OF221 as the readers say, OF880..OF883.
    """
    size = path.stat().st_size
    limits = limits_for(size, pixels=min(256 * size, _CHUNK))
    answer, _ = SANDBOX.ask(_VALUES[kind], {"path": str(path)}, limits, _Values, about=str(path))
    return dict(answer.values)
