"""NIfTI volumes, turned to the radiologist's view and sliced along one anatomical axis. Runs in the process that reads.

What follows the voxels in a file is never read, and a packed file that could not hold what its header says is refused
before it is unpacked.
"""

from __future__ import annotations

import gzip
import io
import math
import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from omnifed.data.readers.base import MAX_VOXELS, check_size, damaged
from omnifed.data.readers.keep import Keep
from omnifed.data.sandbox.failures import refused
from omnifed.data.sandbox.operations import Answer

PIECE = 2**22
"""Bytes unpacked at a time."""
_DEFLATE_RATIO = 1032
"""A byte of deflate stands for at most so many."""
_MM = {"meter": 1e3, "micron": 1e-3}
"""Other units of length than mm; a header without unit means mm, as every viewer takes it."""


def load(path: Path) -> nib.Nifti1Image:
    """Opens a volume and checks its size; no voxel is read. It is kept for the next question about it.

    Raises:
        OmniFedError: OF211 not a 2D or 3D volume, OF212 damaged, OF213 too large.
    """
    return _image.get(path, lambda: _load(path))


_image: Keep[nib.Nifti1Image] = Keep()


def _load(path: Path) -> nib.Nifti1Image:
    try:
        image = nib.load(path)
    except MemoryError:
        raise
    except Exception as error:
        raise damaged(path, error) from None
    if not isinstance(image, nib.Nifti1Image):
        raise damaged(path, f"it holds a {type(image).__name__}")
    shape = tuple(int(n) for n in image.shape)
    while len(shape) > 2 and shape[-1] == 1:
        shape = shape[:-1]
    kind = image.get_data_dtype()
    if len(shape) not in (2, 3) or kind.kind not in "iuf":
        raise refused("OF211", f"{path}: shape {image.shape}, type {kind}")
    check_size(shape, path, limit=MAX_VOXELS)
    most = path.stat().st_size * (_DEFLATE_RATIO if is_packed(path) else 1)
    if _end(image) > most:
        raise damaged(path, f"at most {most} bytes for {_end(image)}")
    return image


def is_packed(path: Path) -> bool:
    """Whether a file is compressed."""
    return path.name.lower().endswith(".gz")


def _end(image: nib.Nifti1Image) -> int:
    """Bytes up to the last voxel, unpacked."""
    proxy: Any = image.dataobj
    return int(proxy.offset) + math.prod(image.shape) * image.get_data_dtype().itemsize


class Volume:
    """A volume whose slices are read one by one.

    Args:
        path: ``.nii`` or ``.nii.gz``.
        slice_axis: 0 sagittal, 1 coronal, 2 axial.
        unpacked: file descriptor with room into which a ``.nii.gz`` is unpacked; None unpacks it into memory.

    Attributes:
        image: header and affine matrix, as stored.
        shape: slices, rows and columns.
        turn: (3, 2) orientation from the file's axes to LPI.

    Raises:
        OmniFedError: OF211 not a 2D or 3D volume, OF212 damaged, OF213 too large.
    """

    def __init__(self, path: Path, *, slice_axis: int = 2, unpacked: int | None = None) -> None:
        self.image = load(path)
        self.turn = turn_of(self.image)
        proxy: Any = self.image.dataobj
        size, kind = math.prod(self.image.shape), self.image.get_data_dtype()
        try:
            self._map = _mapped(path, _end(self.image), unpacked)
            raw = np.frombuffer(self._map, kind, size, int(proxy.offset))
        except MemoryError:
            raise
        except Exception as error:
            raise damaged(path, error) from None
        self._raw = stacked(raw.reshape(self.image.shape, order="F"), self.turn, slice_axis)
        self.shape: tuple[int, int, int] = self._raw.shape

    def pixels(self, k: int) -> np.ndarray:
        """Slice k (H, W) float32, in the file's units."""
        proxy: Any = self.image.dataobj
        scaled = nib.volumeutils.apply_read_scaling(self._raw[k], proxy.slope, proxy.inter)
        return np.ascontiguousarray(scaled, np.float32)

    def forget(self) -> None:
        """Gives the memory of the slices read so far back; they can be read again."""
        if isinstance(self._map, mmap.mmap):
            self._map.madvise(mmap.MADV_DONTNEED)


def turn_of(image: nib.Nifti1Image) -> np.ndarray:
    """(3, 2) orientation that turns an image's axes to LPI."""
    stored = nib.orientations.io_orientation(image.affine)
    return nib.orientations.ornt_transform(stored, nib.orientations.axcodes2ornt(("L", "P", "I")))


def stacked(stored: np.ndarray, turn: np.ndarray, axis: int) -> np.ndarray:
    """A view of an array of a file's shape as (slices, rows, columns)."""
    turned = nib.orientations.apply_orientation(stored.reshape((*stored.shape, 1, 1)[:3]), turn)
    return np.moveaxis(turned, axis, 0).transpose(0, 2, 1)


def _mapped(path: Path, size: int, unpacked: int | None) -> mmap.mmap | bytes:
    """The first ``size`` bytes of a file, unpacked."""
    if not is_packed(path):
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
    with gzip.open(path) as packed:
        if unpacked is None:
            return packed.read(size)
        room = mmap.mmap(unpacked, size)  # the file has that size: it cannot grow here
        for start in range(0, size, PIECE):
            piece = packed.read(min(PIECE, size - start))
            room[start : start + len(piece)] = piece
            if len(piece) < min(PIECE, size - start):
                raise EOFError("the file ends before its voxels")
        return room


_volume: Keep[Volume] = Keep()


def head(path: str, slice_axis: int) -> Answer:
    """What the parent learns of a volume before its voxels: :class:`omnifed.data.readers.volume.VolumeHead`."""
    image = load(Path(path))
    turn = turn_of(image)
    turned: Any = nib.orientations.inv_ornt_aff(turn, (*image.shape, 1, 1)[:3])
    size = abs(float(np.linalg.det(image.affine[:3, :3]))) * _MM.get(image.header.get_xyzt_units()[0], 1.0) ** 3 / 1000
    flat = len(image.shape) < 3 or 1 in image.shape[:3]
    answer = {
        "stored": [int(n) for n in image.shape],
        "turn": [[int(axis), int(flip)] for axis, flip in turn],
        "end": _end(image),
        "voxel_ml": None if flat or not 0 < size < math.inf else size,
    }
    return answer, [np.asarray(image.affine @ turned, np.float64)]


def slices(path: str, slice_axis: int, chosen: Sequence[int], fd: int | None = None) -> Answer:
    """Slices (H, W) float32; a descriptor with room takes the voxels of a packed file."""
    file = Path(path)
    volume = _volume.get(file, lambda: Volume(file, slice_axis=slice_axis, unpacked=fd), slice_axis, fd is None)
    planes = [volume.pixels(k) for k in chosen]
    volume.forget()
    return {}, planes


def label_head(path: str, description: str) -> Answer:
    """All that precedes the voxels in a ``.nii`` of labels with affine, axes and units of the source, as bytes."""
    image = load(Path(path))
    header = image.header.copy()
    header.extensions.clear()  # they speak of the image, and may name the patient
    header.set_data_dtype(np.uint8)
    header.set_slope_inter(1, 0)
    header["cal_min"], header["cal_max"] = 0, 0
    header["descrip"] = description.encode()[:79]
    header["aux_file"], header["db_name"] = b"", b""
    labels = type(image)(np.broadcast_to(np.uint8(0), image.shape), image.affine, header)
    labels.update_header()
    labels.header.set_slope_inter(1, 0)
    file = io.BytesIO()
    labels.header.write_to(file)
    whole = file.getvalue().ljust(labels.header.get_data_offset(), b"\0")
    return {}, [np.frombuffer(whole, np.uint8)]
