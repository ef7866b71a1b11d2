"""An input whose slices are read one by one, as often as needed, and the label map in the form of its source."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from PIL import Image

from omnifed.data.overlay import colour
from omnifed.data.readers.base import reading
from omnifed.errors import OmniFedError
from omnifed.files import write_atomic
from omnifed.predict.result import Kind

if TYPE_CHECKING:
    from omnifed.predict.network import Model

PRIVATE = 0o600
"""Mode of what derives from patient data."""


class Source(Protocol):
    """One input.

    Attributes:
        masks: (n, H, W) uint8, zero at first: what is to be filled, slice by slice, in order of position.
        voxel_ml: millilitres of a voxel, None where not known.
        warnings: what a user of the masks should know.
    """

    masks: np.ndarray
    voxel_ml: float | None
    warnings: tuple[str, ...]

    def pixels(self, chosen: Sequence[int]) -> Iterator[np.ndarray]:
        """Slices in physical units, (H, W) or (H, W, 3), in the order asked for."""

    def write(self, path: Path, model: Model) -> None:
        """Writes ``masks``, whole or not at all."""


class RasterSource:
    """A PNG, JPEG, TIFF or BMP.

    Args:
        path: the file.

    Raises:
        OmniFedError: OF211..OF213 as the reader says, OF628 several pages.
    """

    def __init__(self, path: Path) -> None:
        from omnifed.data.readers import raster

        slices = raster.read(path).slices
        if len(slices) != 1:
            raise OmniFedError(
                "OF628",
                "An image file that is to be segmented must hold one page.",
                seen=f"{path}: {len(slices)} pages",
                remedy="Save each page as a file of its own, or the stack as NIfTI.",
            )
        self._pixels = slices[0].pixels
        self.masks = np.zeros((1, *self._pixels.shape[:2]), np.uint8)
        self.voxel_ml: float | None = None
        self.warnings: tuple[str, ...] = ()

    def pixels(self, chosen: Sequence[int]) -> Iterator[np.ndarray]:
        """The image, for each 0 in ``chosen``."""
        return (self._pixels for _ in chosen)

    def write(self, path: Path, model: Model) -> None:
        """An 8-bit PNG of label ids with the overlay's colours as palette."""
        picture = Image.fromarray(self.masks[0]).convert("P")
        picture.putpalette([part for label in range(256) for part in colour(label)])
        write_png(path, picture)


def open_source(kind: Kind, path: Path, files: Sequence[Path], *, slice_axis: int, voi: bool, scratch: Path) -> Source:
    """Opens an input: headers are read and checked, no pixels yet (but those of a plain image).

    Args:
        kind: what it is.
        path: file or folder.
        files: of a DICOM series.
        slice_axis: of NIfTI, as in training.
        voi: apply the display window of DICOM, as in training.
        scratch: folder with room for an unpacked NIfTI.

    Raises:
        OmniFedError: OF211..OF217 as the readers say, OF623 no room to unpack, OF625..OF628 what cannot be segmented,
            OF640 or OF641 no segmentation could refer to it.
    """
    with reading(path):
        if kind == "nifti":
            from omnifed.predict.nifti import NiftiSource

            return NiftiSource(path, slice_axis, scratch)
        if kind == "dicom":
            from omnifed.predict.dicom import DicomSource

            return DicomSource(path, files, voi)
        return RasterSource(path)


def write_png(path: Path, picture: Image.Image) -> None:
    """Writes a PNG, whole or not at all.

    Raises:
        OmniFedError: OF103 if it cannot be written.
    """
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=3)  # twice as fast as the usual 6, files a few percent larger
    write_atomic(path, file.getvalue(), mode=PRIVATE)
