"""A NIfTI volume: read slice by slice, its label map written on the voxels of the file."""

from __future__ import annotations

import gzip
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from omnifed.data.readers.volume import Volume
from omnifed.export.card import NOTICE
from omnifed.files import not_written, sync_folder
from omnifed.predict.room import need_room

if TYPE_CHECKING:
    from omnifed.predict.network import Model

_PIECE = 2**22
"""Bytes written at a time."""


class NiftiSource:
    """A NIfTI volume.

    Args:
        path: ``.nii`` or ``.nii.gz``.
        slice_axis: 0 sagittal, 1 coronal, 2 axial.
        scratch: folder in which a packed file is unpacked.

    Raises:
        OmniFedError: OF211..OF213 and OF880..OF883 as the reader says, OF623 no room to unpack.
    """

    def __init__(self, path: Path, slice_axis: int, scratch: Path) -> None:
        self._volume = Volume(path, slice_axis=slice_axis)
        if self._volume.packed:
            need_room(scratch, self._volume.head.end)
            try:
                self._volume.unpack_to(scratch)
            except OSError as error:
                raise not_written(scratch, error) from None
        self._labels = np.zeros(self._volume.head.stored, np.uint8, order="F")
        self.masks = self._volume.stacked(self._labels)
        self.voxel_ml = self._volume.head.voxel_ml
        self.warnings: tuple[str, ...] = ()

    def pixels(self, chosen: Sequence[int]) -> Iterator[np.ndarray]:
        """Slices (H, W) float32."""
        return self._volume.pixels(chosen)

    def write(self, path: Path, model: Model) -> None:
        """A label map with affine, axes and units of the source."""
        head = self._volume.label_head(f"OmniFed {model.sha256[:16]}, {NOTICE}")
        _save(path, head, self._labels)


def _save(path: Path, head: bytes, labels: np.ndarray) -> None:
    """Written aside, flushed and renamed; streamed, as a label map is as large as its volume has voxels."""
    part = ""
    try:
        handle, part = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        with open(handle, "wb") as file:
            if path.name.lower().endswith(".gz"):
                with gzip.GzipFile("", "wb", 1, file, mtime=0) as packed:
                    _write(packed, head, labels)
            else:
                _write(file, head, labels)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
        sync_folder(path.parent)
    except OSError as error:
        raise not_written(path, error) from None
    finally:  # also when interrupted
        if part:
            Path(part).unlink(missing_ok=True)


def _write(file: BinaryIO | gzip.GzipFile, head: bytes, labels: np.ndarray) -> None:
    file.write(head)
    voxels = labels.T.data.cast("B")  # Fortran's order, without a copy
    for start in range(0, len(voxels), _PIECE):
        file.write(voxels[start : start + _PIECE])
