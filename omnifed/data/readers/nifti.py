"""NIfTI volumes, turned to the radiologist's view and sliced along one anatomical axis."""

from __future__ import annotations

import gzip
import math
import mmap
import tempfile
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from omnifed.data.readers.base import MAX_VOXELS, Picture, Slice, check_size, damaged
from omnifed.errors import OmniFedError

GRID_TOLERANCE = 0.1
"""Largest distance in voxels between a pixel of the image and a voxel of its mask."""
_PIECE = 2**22
"""Bytes unpacked at a time."""


def _load(path: Path) -> nib.Nifti1Image:
    try:
        image = nib.load(path)
    except Exception as error:
        raise damaged(path, f"{type(error).__name__}: {error}") from None
    if not isinstance(image, nib.Nifti1Image):
        raise damaged(path, f"it holds a {type(image).__name__}")
    shape = tuple(int(n) for n in image.shape)
    while len(shape) > 2 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) not in (2, 3) or image.get_data_dtype().fields:
        raise OmniFedError(
            "OF211",
            "A NIfTI volume must have 2 or 3 axes of plain numbers.",
            seen=f"{path}: shape {image.shape}, type {image.get_data_dtype()}",
            remedy="Export one volume a file, without time or colour axis.",
        )
    check_size(shape, path, limit=MAX_VOXELS)
    return image


def _values(image: nib.Nifti1Image, path: Path) -> np.ndarray:
    try:
        data = np.asanyarray(image.dataobj)
    except Exception as error:
        raise damaged(path, f"{type(error).__name__}: {error}") from None
    return data.reshape((*image.shape, 1, 1)[:3])


class Volume:
    """A volume whose slices are read one by one.

    Args:
        path: ``.nii`` or ``.nii.gz``.
        slice_axis: 0 sagittal, 1 coronal, 2 axial.
        scratch: folder in which a ``.nii.gz`` is unpacked to a file without a name, which vanishes with the process;
            None unpacks it into memory.

    Attributes:
        image: header and affine matrix, as stored.
        shape: slices, rows and columns.

    Raises:
        OmniFedError: OF211 not a 2D or 3D volume, OF212 damaged, OF213 too large.
    """

    def __init__(self, path: Path, *, slice_axis: int = 2, scratch: Path | None = None) -> None:
        self.image, self.axis = _load(path), slice_axis
        stored = nib.orientations.io_orientation(self.image.affine)
        self._turn = nib.orientations.ornt_transform(stored, nib.orientations.axcodes2ornt(("L", "P", "I")))
        proxy: Any = self.image.dataobj
        size, kind = math.prod(self.image.shape), self.image.get_data_dtype()
        try:
            self._map = _mapped(path, int(proxy.offset) + size * kind.itemsize, scratch)
            raw = np.frombuffer(self._map, kind, size, int(proxy.offset))
        except Exception as error:
            raise damaged(path, f"{type(error).__name__}: {error}") from None
        self._raw = self.stacked(raw.reshape(self.image.shape, order="F"))
        self.shape: tuple[int, int, int] = self._raw.shape
        turned = nib.orientations.inv_ornt_aff(self._turn, (*self.image.shape, 1, 1)[:3])
        self.affine: np.ndarray = self.image.affine @ turned

    def stacked(self, stored: np.ndarray) -> np.ndarray:
        """A view of an array of the file's shape as (slices, rows, columns): what is written to it lands in the file's
        order."""
        turned = nib.orientations.apply_orientation(stored.reshape((*self.image.shape, 1, 1)[:3]), self._turn)
        return np.moveaxis(turned, self.axis, 0).transpose(0, 2, 1)

    def pixels(self, k: int) -> np.ndarray:
        """Slice k (H, W) float32, in the file's units."""
        proxy: Any = self.image.dataobj
        scaled = nib.volumeutils.apply_read_scaling(self._raw[k], proxy.slope, proxy.inter)
        return np.ascontiguousarray(scaled, np.float32)

    def plane(self, k: int) -> np.ndarray:
        """Matrix (3, 3) from (row, column, 1) of slice k to RAS+ mm."""
        across, down = (axis for axis in range(3) if axis != self.axis)
        at = self.affine[:3, self.axis] * k + self.affine[:3, 3]
        return np.stack([self.affine[:3, down], self.affine[:3, across], at], axis=1)

    def forget(self) -> None:
        """Gives the memory of the slices read so far back; they can be read again."""
        if isinstance(self._map, mmap.mmap):
            self._map.madvise(mmap.MADV_DONTNEED)


def _mapped(path: Path, size: int, scratch: Path | None) -> mmap.mmap | bytes:
    """The first ``size`` bytes of a file, unpacked: what follows in a hostile file is never read."""
    if not path.name.lower().endswith(".gz"):
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
    with gzip.open(path) as packed:
        if scratch is None:
            return packed.read(size)
        with tempfile.TemporaryFile(dir=scratch) as file:
            while size > file.tell():
                piece = packed.read(min(_PIECE, size - file.tell()))
                if not piece:
                    raise EOFError("the file ends before its voxels")
                file.write(piece)
            file.flush()
            return mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)


def read(path: Path, *, slice_axis: int = 2, voi: bool = False) -> Picture:
    """Reads a NIfTI volume as slices.

    The volume is turned to LPI axes first, so that axial slices (axis 2) look as DICOM shows them (anterior up, the
    patient's left on the right), and coronal (1) and sagittal (0) slices have the head up.

    Args:
        path: ``.nii`` or ``.nii.gz``.
        slice_axis: 0 sagittal, 1 coronal, 2 axial.
        voi: ignored.

    Raises:
        OmniFedError: OF211 not a 2D or 3D volume, OF212 damaged, OF213 too large.
    """
    volume = Volume(path, slice_axis=slice_axis)
    slices = []
    for k in range(volume.shape[0]):
        plane = volume.plane(k)
        spacing = (float(np.linalg.norm(plane[:, 0])), float(np.linalg.norm(plane[:, 1])))
        slices.append(Slice(volume.pixels(k), spacing, plane, frame=k + 1, number=k))
    return Picture(tuple(slices), modality="NIFTI")


def read_mask(path: Path, picture: Picture) -> list[np.ndarray]:
    """Reads the mask voxels under every pixel of ``picture``; axes may be stored in any order and direction.

    Returns:
        (H, W) arrays of file values, in the order of ``picture.slices``.

    Raises:
        OmniFedError: OF222 unless every pixel falls on a voxel, OF221 for values that are no integers.
    """
    image, data = _label_map(path)
    try:
        inverse = np.linalg.inv(image.affine)
    except np.linalg.LinAlgError:
        raise _off_grid(path, "its affine matrix cannot be inverted") from None
    return [_under(data, inverse, s, path) for s in picture.slices]


def mask_values(path: Path) -> dict[int, str]:
    """Values of a NIfTI mask; it states no names."""
    return {int(value): "" for value in np.unique(_label_map(path)[1])}


def _label_map(path: Path) -> tuple[nib.Nifti1Image, np.ndarray]:
    image = _load(path)
    data = _values(image, path)
    if data.dtype.kind == "f":
        if not (np.isfinite(data).all() and (data == np.round(data)).all()):
            raise OmniFedError(
                "OF221",
                "A mask must hold one label value a pixel.",
                seen=f"{path}: values that are no whole numbers",
                remedy="Export the label map itself, not a probability map.",
            )
        data = data.astype(np.int64)
    return image, data


def _under(data: np.ndarray, inverse: np.ndarray, piece: Slice, path: Path) -> np.ndarray:
    if piece.plane is None:
        raise _off_grid(path, "the image states no position")
    height, width = piece.pixels.shape[:2]
    to_voxel = inverse[:3, :3] @ piece.plane
    to_voxel[:, 2] += inverse[:3, 3]
    corners = np.array([[r, c, 1.0] for r in (0, height - 1) for c in (0, width - 1)]).T
    exact = to_voxel @ corners
    near = np.round(exact)
    if np.abs(exact - near).max() > GRID_TOLERANCE:
        raise _off_grid(path, "pixels lie between voxels")
    if (near < 0).any() or (near >= np.array(data.shape)[:, None]).any():
        raise _off_grid(path, "pixels lie outside")
    rows, columns = np.mgrid[:height, :width].reshape(2, -1).astype(np.float64)
    index = np.round(to_voxel @ np.stack([rows, columns, np.ones_like(rows)])).astype(np.intp)
    return data[index[0], index[1], index[2]].reshape(height, width)


def _off_grid(path: Path, why: str) -> OmniFedError:
    return OmniFedError(
        "OF222",
        "A NIfTI mask must share the grid of its image.",
        seen=f"{path}: {why}",
        remedy="Save the mask with the affine matrix and the shape of the image.",
    )
