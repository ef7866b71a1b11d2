"""NIfTI volumes, turned to the radiologist's view and sliced along one anatomical axis. Runs in the process that reads.

What follows the voxels in a file is never read, and a packed file that could not hold what its header says is refused
before it is unpacked.
"""

from __future__ import annotations

import gzip
import io
import math
import mmap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from omnifed.data.readers.base import MAX_VOXELS, Picture, Slice, check_size, damaged, refused
from omnifed.data.readers.keep import Keep
from omnifed.data.readers.pieces import few, pieces_of
from omnifed.data.sandbox.operations import Answer
from omnifed.errors import OmniFedError

GRID_TOLERANCE = 0.1
"""Largest distance in voxels between a pixel of the image and a voxel of its mask."""
_PIECE = 2**22
"""Bytes unpacked at a time."""
_DEFLATE_RATIO = 1032
"""A byte of deflate stands for at most so many."""
_MM = {"meter": 1e3, "micron": 1e-3}
"""Other units of length than mm; a header without unit means mm, as every viewer takes it."""


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
    most = path.stat().st_size * (_DEFLATE_RATIO if _packed(path) else 1)
    if _end(image) > most:
        raise damaged(path, f"at most {most} bytes for {_end(image)}")
    return image


def _packed(path: Path) -> bool:
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
        self.image = _load(path)
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
    if not _packed(path):
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
    with gzip.open(path) as packed:
        if unpacked is None:
            return packed.read(size)
        room = mmap.mmap(unpacked, size)  # the file has that size: it cannot grow here
        for start in range(0, size, _PIECE):
            piece = packed.read(min(_PIECE, size - start))
            room[start : start + len(piece)] = piece
            if len(piece) < min(_PIECE, size - start):
                raise EOFError("the file ends before its voxels")
        return room


_volume: Keep[Volume] = Keep()


def head(path: str, slice_axis: int) -> Answer:
    """What the parent learns of a volume before its voxels: :class:`omnifed.data.readers.volume.VolumeHead`."""
    image = _load(Path(path))
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
    image = _load(Path(path))
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


def read_mask(path: Path, picture: Picture) -> list[np.ndarray]:
    """Reads the mask voxels under every pixel of ``picture``; axes may be stored in any order and direction.

    Returns:
        (H, W) arrays of file values, in the order of ``picture.slices``.

    Raises:
        OmniFedError: OF222 unless every pixel falls on a voxel, OF221 for values that are no integers.
    """
    image, data = _labels.get(path, lambda: _label_map(path))
    try:
        inverse = np.linalg.inv(image.affine)
    except np.linalg.LinAlgError:
        raise _off_grid(path, "its affine matrix cannot be inverted") from None
    return [_under(data, inverse, s, path) for s in picture.slices]


def masks(path: str, arrays: Sequence[np.ndarray]) -> Answer:
    """:func:`read_mask` of slices of which sizes (n, 2) and planes (n, 3, 3) are told."""
    sizes, planes = arrays
    pieces = tuple(
        Slice(np.broadcast_to(np.uint8(0), size), plane=plane if np.isfinite(plane).all() else None)
        for size, plane in zip(sizes, planes, strict=True)
    )
    return {}, read_mask(Path(path), Picture(pieces))


def values(path: str) -> Answer:
    """Values of a NIfTI mask; it states no names."""
    file = Path(path)
    return few(np.unique(_labels.get(file, lambda: _label_map(file))[1])), []


def _label_map(path: Path) -> tuple[nib.Nifti1Image, np.ndarray]:
    """The image, and its voxels (3 axes) in the smallest type that holds them: of whatever type they are stored."""
    image = _load(path)
    proxy: Any = image.dataobj
    scale = (proxy.slope, proxy.inter)
    try:
        data = pieces_of(_voxels(path, image), math.prod(image.shape), lambda raw: _whole(raw, scale, path))
    except (OmniFedError, MemoryError):
        raise
    except Exception as error:
        raise damaged(path, error) from None
    return image, data.reshape(image.shape, order="F").reshape((*image.shape, 1, 1)[:3])


def _voxels(path: Path, image: nib.Nifti1Image) -> Iterator[np.ndarray]:
    proxy: Any = image.dataobj
    kind, left = image.get_data_dtype(), math.prod(image.shape)
    with gzip.open(path) if _packed(path) else path.open("rb") as file:
        file.seek(int(proxy.offset))
        while left:
            piece = file.read(min(left, _PIECE // kind.itemsize) * kind.itemsize)
            if not piece:
                raise EOFError("the file ends before its voxels")
            raw = np.frombuffer(piece, kind)
            yield raw
            left -= len(raw)


def _whole(raw: np.ndarray, scale: tuple[float, float], path: Path) -> np.ndarray:
    scaled = nib.volumeutils.apply_read_scaling(raw, *scale)
    if scaled.dtype.kind == "f":
        if not (np.isfinite(scaled).all() and (scaled == np.round(scaled)).all() and np.abs(scaled).max() < 2**62):
            raise refused("OF221", f"{path}: values that are no whole numbers")
        scaled = scaled.astype(np.int64)
    return scaled


_labels: Keep[tuple[nib.Nifti1Image, np.ndarray]] = Keep()


def _under(data: np.ndarray, inverse: np.ndarray, piece: Slice, path: Path) -> np.ndarray:
    if piece.plane is None:
        raise _off_grid(path, "the image states no position")
    height, width = piece.pixels.shape[:2]
    to_voxel = inverse[:3, :3] @ piece.plane
    to_voxel[:, 2] += inverse[:3, 3]
    corners = np.array([[r, c, 1.0] for r in (0, height - 1) for c in (0, width - 1)]).T
    exact = to_voxel @ corners
    near = np.round(exact)
    if not np.abs(exact - near).max() <= GRID_TOLERANCE:  # nor where damage makes NaN
        raise _off_grid(path, "pixels lie between voxels")
    if (near < 0).any() or (near >= np.array(data.shape)[:, None]).any():
        raise _off_grid(path, "pixels lie outside")
    rows, columns = np.mgrid[:height, :width].reshape(2, -1).astype(np.float64)
    index = np.round(to_voxel @ np.stack([rows, columns, np.ones_like(rows)])).astype(np.intp)
    return data[index[0], index[1], index[2]].reshape(height, width)


def _off_grid(path: Path, why: str) -> OmniFedError:
    return refused("OF222", f"{path}: {why}")
