"""A NIfTI volume: read slice by slice, its label map written on the voxels of the file."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np

from omnifed.data.readers.base import MAX_VOXELS, check_size
from omnifed.data.readers.nifti import Volume
from omnifed.export.card import NOTICE
from omnifed.files import not_written, sync_folder
from omnifed.predict.room import need_room

if TYPE_CHECKING:
    from omnifed.predict.network import Model

_MM = {"meter": 1e3, "micron": 1e-3}
"""Other units of length than mm; a header without unit means mm, as every viewer takes it."""


class NiftiSource:
    """A NIfTI volume.

    Args:
        path: ``.nii`` or ``.nii.gz``.
        slice_axis: 0 sagittal, 1 coronal, 2 axial.
        scratch: folder in which a packed file is unpacked.

    Raises:
        OmniFedError: OF211..OF213 as the reader says, OF623 no room to unpack.
    """

    def __init__(self, path: Path, slice_axis: int, scratch: Path) -> None:
        if path.name.lower().endswith(".gz"):
            head: Any = nib.load(path)
            check_size(head.shape, path, limit=MAX_VOXELS)
            need_room(scratch, math.prod(head.shape) * head.get_data_dtype().itemsize)
        self._volume = Volume(path, slice_axis=slice_axis, scratch=scratch)
        image = self._volume.image
        self._labels = np.zeros(image.shape, np.uint8, order="F")
        self.masks = self._volume.stacked(self._labels)
        unit = _MM.get(image.header.get_xyzt_units()[0], 1.0)
        size = abs(float(np.linalg.det(image.affine[:3, :3]))) * unit**3 / 1000
        flat = len(image.shape) < 3 or 1 in image.shape[:3]
        self.voxel_ml = None if flat or not size > 0 else size
        self.warnings: tuple[str, ...] = ()

    def pixels(self, chosen: Sequence[int]) -> Iterator[np.ndarray]:
        """Slices (H, W) float32."""
        for k in chosen:
            yield self._volume.pixels(k)
            self._volume.forget()

    def write(self, path: Path, model: Model) -> None:
        """A label map with affine, axes and units of the source."""
        image = self._volume.image
        header = image.header.copy()
        header.extensions.clear()  # they speak of the image, and may name the patient
        header.set_data_dtype(np.uint8)
        header.set_slope_inter(1, 0)
        header["cal_min"], header["cal_max"] = 0, 0
        header["descrip"] = f"OmniFed {model.sha256[:16]}, {NOTICE}".encode()[:79]
        header["aux_file"], header["db_name"] = b"", b""
        _save(type(image)(self._labels, image.affine, header), path)


def _save(image: nib.Nifti1Image, path: Path) -> None:
    """Written aside, flushed and renamed; streamed, as a label map is as large as its volume has voxels."""
    part = ""
    try:
        suffix = ".nii.gz" if path.name.lower().endswith(".gz") else ".nii"
        handle, part = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=suffix)
        os.close(handle)
        nib.save(image, part)
        with open(part, "rb") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
        sync_folder(path.parent)
    except OSError as error:
        raise not_written(path, error) from None
    finally:  # also when interrupted
        if part:
            Path(part).unlink(missing_ok=True)
