"""What every reader returns, and the limits that hold before a pixel is decoded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from omnifed.data.sandbox.failures import refused
from omnifed.errors import OmniFedError

MAX_PIXELS = 64 * 2**20
"""Largest single image that is decoded, in pixels: a damaged or hostile header must not take the memory."""
MAX_VOXELS = 256 * 2**20
"""Largest volume that is decoded, in voxels (1 GiB as float32)."""

Spacing = tuple[float, float]
UNKNOWN: Spacing = (float("nan"), float("nan"))


@dataclass(frozen=True)
class Slice:
    """One 2D image of a file or series.

    Attributes:
        pixels: (H, W) or (H, W, 3), numeric, in physical units where the file states them (HU).
        spacing: mm from row to row and from column to column; NaN where unknown.
        plane: (3, 3) matrix from (row, column, 1) to RAS+ world coordinates in mm; None for plain images.
        uid: SOP instance UID, empty outside DICOM.
        frame: 1-based frame within the file.
        number: 0-based number that names this slice within its row.
    """

    pixels: np.ndarray
    spacing: Spacing = UNKNOWN
    plane: np.ndarray | None = None
    uid: str = ""
    frame: int = 1
    number: int = 0


@dataclass(frozen=True)
class Picture:
    """All slices of one index row, in the order of their position.

    Attributes:
        slices: the readable ones.
        failed: number (or file) of a slice and why it could not be read.
        modality: DICOM Modality, or ``"NIFTI"``, or empty.
        body_part: DICOM BodyPartExamined, or empty.
        series: DICOM SeriesInstanceUID, or empty.
    """

    slices: tuple[Slice, ...]
    failed: tuple[tuple[str, OmniFedError], ...] = ()
    modality: str = ""
    body_part: str = ""
    series: str = ""


def check_size(shape: Sequence[int], path: Path, *, limit: int = MAX_PIXELS) -> None:
    """Refuses an image before it is decoded.

    Args:
        shape: pixels along each axis, as the header says.
        path: for the error.
        limit: largest product of ``shape``.

    Raises:
        OmniFedError: OF213 beyond the limit or with an empty axis.
    """
    count = 1
    for side in shape:
        count *= int(side)
    if not 0 < count <= limit:
        raise refused("OF213", f"{path}: {' x '.join(map(str, shape))}")


def damaged(path: Path, why: object) -> OmniFedError:
    """OF212, for a file that begins well and cannot be decoded.

    Args:
        path: the file.
        why: words of ours, or the error of a library: of that only the type is told, as its text may quote a header.
    """
    return refused("OF212", f"{path}: {type(why).__name__ if isinstance(why, BaseException) else why}")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Makes OF212 of a file that vanishes or cannot be opened: it is counted and ends no run."""
    try:
        yield
    except OSError as error:
        raise damaged(path, error.strerror or error) from None
