"""Which reader reads a path: one line a format. Decided by content, as hospital exports often have no suffix.

Whatever a file holds is decoded by another process, under limits (:mod:`omnifed.data.sandbox`).
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np

from omnifed.data.readers import dicom, masks, raster, volume
from omnifed.data.readers.base import Picture, reading
from omnifed.data.sandbox.process import SANDBOX
from omnifed.errors import OmniFedError

reading_run = SANDBOX.kept
"""``with reading_run():`` the process that reads ends with the block."""
_READERS = {"dicom": dicom.read, "nifti": volume.read, "raster": raster.read}


def _kind(path: Path) -> str:
    if path.is_dir():
        return "dicom"
    if path.name.lower().endswith((".nii", ".nii.gz")):
        return "nifti"
    with path.open("rb") as file:
        head = file.read(132)
    return "dicom" if head[128:] == b"DICM" or path.suffix.lower() in (".dcm", ".dicom", ".ima") else "raster"


def read_image(path: Path, *, slice_axis: int = 2, voi: bool = False) -> Picture:
    """Reads an image file, a volume or a DICOM folder.

    Args:
        path: file or folder.
        slice_axis: anatomical axis along which NIfTI volumes are sliced: 0 sagittal, 1 coronal, 2 axial.
        voi: apply the file's own display window or table (DICOM), for X-ray and colour; CT and MR stay in units.

    Raises:
        OmniFedError: OF210 missing, OF211..OF217 as the reader says, OF880..OF883 a file that its decoder does not
            survive.
    """
    if not path.exists():
        raise OmniFedError(
            "OF210",
            "An image that the index names must exist.",
            seen=str(path),
            remedy="Correct the path in the index (relative to the site folder) or copy the file there.",
        )
    with reading(path):
        return _READERS[_kind(path)](path, slice_axis=slice_axis, voi=voi)


def read_mask(path: Path, picture: Picture, drop: Collection[int] = ()) -> list[np.ndarray]:
    """Reads the mask of ``picture`` as file values, one (H, W) array a slice.

    Args:
        path: PNG or TIFF, NIfTI or DICOM SEG (its values are the segment numbers).
        picture: the image.
        drop: file values that the site maps to background; such segments of a SEG may overlap others.

    Raises:
        OmniFedError: OF218 missing, OF211..OF224 as the reader says, OF880..OF883.
    """
    _must_exist(path)
    with reading(path):
        kind = _kind(path)
        if kind == "raster":
            return raster.read_mask(path, picture)
        return masks.read_mask(path, picture, drop, kind)


def mask_values(path: Path) -> dict[int, str]:
    """Values that a mask file holds, each with its name where the file states one (DICOM SEG), else ``""``.

    Raises:
        OmniFedError: OF218 missing, OF211..OF221 as the reader says, OF880..OF883.
    """
    _must_exist(path)
    with reading(path):
        return masks.mask_values(path, _kind(path))


def _must_exist(path: Path) -> None:
    if not path.is_file():
        raise OmniFedError(
            "OF218",
            "A mask that the index names must exist as a file.",
            seen=str(path),
            remedy="Correct the path, or leave the mask column empty to use the image without a mask.",
        )
