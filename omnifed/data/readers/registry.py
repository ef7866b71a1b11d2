"""Which reader reads a path: one line a format. Decided by content, as hospital exports often have no suffix."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from omnifed.data.readers.base import Picture, damaged
from omnifed.errors import OmniFedError


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
        OmniFedError: OF210 missing, OF211..OF217 as the reader says.
    """
    if not path.exists():
        raise OmniFedError(
            "OF210",
            "An image that the index names must exist.",
            seen=str(path),
            remedy="Correct the path in the index (relative to the site folder) or copy the file there.",
        )
    from omnifed.data.readers import dicom, nifti, raster

    readers = {"dicom": dicom.read, "nifti": nifti.read, "raster": raster.read}
    with _guard(path):
        return readers[_kind(path)](path, slice_axis=slice_axis, voi=voi)


def read_mask(path: Path, picture: Picture, drop: Collection[int] = ()) -> list[np.ndarray]:
    """Reads the mask of ``picture`` as file values, one (H, W) array a slice.

    Args:
        path: PNG or TIFF, NIfTI or DICOM SEG (its values are the segment numbers).
        picture: the image.
        drop: file values that the site maps to background; such segments of a SEG may overlap others.

    Raises:
        OmniFedError: OF218 missing, OF211..OF224 as the reader says.
    """
    _must_exist(path)
    from omnifed.data.readers import dicom_seg, nifti, raster

    with _guard(path):
        kind = _kind(path)
        if kind == "dicom":
            return dicom_seg.read_mask(path, picture, drop)
        return nifti.read_mask(path, picture) if kind == "nifti" else raster.read_mask(path, picture)


def mask_values(path: Path) -> dict[int, str]:
    """Values that a mask file holds, each with its name where the file states one (DICOM SEG), else ``""``.

    Raises:
        OmniFedError: OF218 missing, OF211..OF221 as the reader says.
    """
    _must_exist(path)
    from omnifed.data.readers import dicom_seg, nifti, raster

    readers = {"dicom": dicom_seg.mask_values, "nifti": nifti.mask_values, "raster": raster.mask_values}
    with _guard(path):
        return readers[_kind(path)](path)


@contextmanager
def _guard(path: Path) -> Iterator[None]:
    """Turns whatever a decoder raises on hostile or damaged bytes into OF212: it is counted and ends no run."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except OmniFedError:
        raise
    except Exception as error:
        raise damaged(path, f"{type(error).__name__}: {error}") from None


def _must_exist(path: Path) -> None:
    if not path.is_file():
        raise OmniFedError(
            "OF218",
            "A mask that the index names must exist as a file.",
            seen=str(path),
            remedy="Correct the path, or leave the mask column empty to use the image without a mask.",
        )
