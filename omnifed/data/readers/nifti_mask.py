"""Masks as NIfTI, laid under the pixels of an image. Runs in the process that reads."""

from __future__ import annotations

import gzip
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from omnifed.data.readers.base import Picture, Slice, damaged
from omnifed.data.readers.keep import Keep
from omnifed.data.readers.nifti import PIECE, is_packed, load
from omnifed.data.readers.pieces import few, pieces_of
from omnifed.data.sandbox.failures import refused
from omnifed.data.sandbox.operations import Answer
from omnifed.errors import OmniFedError

GRID_TOLERANCE = 0.1
"""Largest distance in voxels between a pixel of the image and a voxel of its mask."""


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
    image = load(path)
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
    with gzip.open(path) if is_packed(path) else path.open("rb") as file:
        file.seek(int(proxy.offset))
        while left:
            piece = file.read(min(left, PIECE // kind.itemsize) * kind.itemsize)
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
