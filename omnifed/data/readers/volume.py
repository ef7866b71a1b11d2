"""NIfTI volumes as this process sees them: sizes, places and slices. Bytes are decoded by another process."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from omnifed.config import Frozen
from omnifed.data.readers.base import MAX_VOXELS, Picture, Slice, check_size
from omnifed.data.sandbox.failures import too_much, unbelievable
from omnifed.data.sandbox.limits import Limits, limits_for
from omnifed.data.sandbox.process import SANDBOX, Nothing

_CHUNK = 32 * 2**20
"""Bytes of decoded slices asked for at a time."""
_BESIDE = 160 * 2**20
"""Memory that reading a volume takes beside its voxels, libraries included."""
_LABEL_HEAD = 544
"""Bytes before the voxels of a NIfTI-2 file; NIfTI-1 has 352."""
_Axis = tuple[Literal[0, 1, 2], Literal[-1, 1]]


class VolumeHead(Frozen):
    """Answer of the question "nifti head".

    Attributes:
        stored: the file's shape.
        turn: axis and direction of each of the file's axes in LPI.
        end: bytes up to the last voxel, unpacked.
        voxel_ml: millilitres of a voxel, None where not known.
    """

    stored: tuple[Annotated[int, Field(ge=1)], ...] = Field(min_length=2, max_length=7)
    turn: tuple[_Axis, _Axis, _Axis]
    end: int = Field(ge=0, le=16 * MAX_VOXELS + 2**31)
    voxel_ml: float | None

    @model_validator(mode="after")
    def _sound(self) -> VolumeHead:
        if sorted(axis for axis, _ in self.turn) != [0, 1, 2] or any(side != 1 for side in self.stored[3:]):
            raise ValueError("no volume")
        return self


class Volume:
    """A volume whose slices are read some at a time.

    Args:
        path: ``.nii`` or ``.nii.gz``.
        slice_axis: 0 sagittal, 1 coronal, 2 axial.

    Attributes:
        head: what the header says.
        shape: slices, rows and columns.

    Raises:
        OmniFedError: OF211 not a 2D or 3D volume, OF212 damaged, OF213 too large, OF880..OF883.
    """

    def __init__(self, path: Path, *, slice_axis: int = 2) -> None:
        self.path, self.axis = path, slice_axis
        self.head, arrays = SANDBOX.ask(
            "nifti head", {"path": str(path), "slice_axis": slice_axis}, self._limits(), VolumeHead,
            about=str(path), room=4096,
        )  # fmt: skip
        check_size(self.head.stored, path, limit=MAX_VOXELS)
        if len(arrays) != 1 or arrays[0].shape != (4, 4) or arrays[0].dtype != np.float64:
            raise unbelievable(f"{path}: geometry of another form")
        self._affine = arrays[0]
        self.shape = self.stacked(np.broadcast_to(np.uint8(0), self.head.stored)).shape
        self._scratch: Any = None

    @property
    def packed(self) -> bool:
        """Whether the file is compressed."""
        return self.path.name.lower().endswith(".gz")

    def unpack_to(self, folder: Path) -> None:
        """Has a packed file unpacked into a file without a name, which vanishes with this object, not into memory.

        Raises:
            OSError: there is no room.
        """
        if self.packed:
            self._scratch = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (lives as long as this object)
            os.posix_fallocate(self._scratch.fileno(), 0, self.head.end)

    def stacked(self, stored: np.ndarray) -> np.ndarray:
        """A view of an array of the file's shape as (slices, rows, columns): what is written to it lands in the file's
        order."""
        array = stored.reshape((*stored.shape, 1, 1)[:3])
        array = array[tuple(slice(None, None, flip) for _, flip in self.head.turn)]
        array = array.transpose(np.argsort([axis for axis, _ in self.head.turn]))
        return np.moveaxis(array, self.axis, 0).transpose(0, 2, 1)

    def pixels(self, chosen: Sequence[int]) -> Iterator[np.ndarray]:
        """Slices (H, W) float32, in the file's units."""
        _, height, width = self.shape
        limits = self._limits(math.prod(self.shape), self.head.end if self._scratch else 0)
        if self.packed and not self._scratch and self.head.end + _BESIDE > limits.memory:
            raise too_much(f"{self.path}: {self.head.end >> 20} MiB unpacked, {limits.memory >> 20} MiB for all")
        step = max(1, _CHUNK // (4 * height * width))
        for start in range(0, len(chosen), step):
            part = list(chosen[start : start + step])
            _, arrays = SANDBOX.ask(
                "nifti slices",
                {"path": str(self.path), "slice_axis": self.axis, "chosen": part},
                limits, Nothing, about=str(self.path), room=4 * len(part) * height * width,
                fd=self._scratch.fileno() if self._scratch else None,
            )  # fmt: skip
            if [(a.shape, a.dtype) for a in arrays] != [((height, width), np.float32)] * len(part):
                raise unbelievable(f"{self.path}: slices of another size")
            yield from arrays

    def plane(self, k: int) -> np.ndarray:
        """Matrix (3, 3) from (row, column, 1) of slice k to RAS+ mm."""
        across, down = (axis for axis in range(3) if axis != self.axis)
        at = self._affine[:3, self.axis] * k + self._affine[:3, 3]
        return np.stack([self._affine[:3, down], self._affine[:3, across], at], axis=1)

    def label_head(self, description: str) -> bytes:
        """All that precedes the voxels of a ``.nii`` of labels on this volume's grid."""
        _, arrays = SANDBOX.ask(
            "nifti label head", {"path": str(self.path), "description": description}, self._limits(), Nothing,
            about=str(self.path), room=_LABEL_HEAD,
        )  # fmt: skip
        if len(arrays) != 1 or arrays[0].dtype != np.uint8:
            raise unbelievable(f"{self.path}: no header")
        return arrays[0].tobytes()

    def _limits(self, pixels: int = 0, held: int = 0) -> Limits:
        return limits_for(self.path.stat().st_size, pixels=pixels, held=held)


def read(path: Path, *, slice_axis: int = 2, voi: bool = False) -> Picture:
    """Reads a NIfTI volume as slices.

    The volume is turned to LPI axes first, so that axial slices (axis 2) look as DICOM shows them (anterior up, the
    patient's left on the right), and coronal (1) and sagittal (0) slices have the head up.

    Args:
        path: ``.nii`` or ``.nii.gz``.
        slice_axis: 0 sagittal, 1 coronal, 2 axial.
        voi: ignored.

    Raises:
        OmniFedError: OF211 not a 2D or 3D volume, OF212 damaged, OF213 too large, OF880..OF883.
    """
    volume = Volume(path, slice_axis=slice_axis)
    slices = []
    for k, pixels in enumerate(volume.pixels(range(volume.shape[0]))):
        plane = volume.plane(k)
        spacing = (float(np.linalg.norm(plane[:, 0])), float(np.linalg.norm(plane[:, 1])))
        slices.append(Slice(pixels, spacing, plane, frame=k + 1, number=k))
    return Picture(tuple(slices), modality="NIFTI")
