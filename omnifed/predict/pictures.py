"""Overlays of predictions, for people."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from omnifed.data.normalise import resize_image, resize_mask
from omnifed.data.overlay import SIDE, contact_sheet, overlay, to_uint8
from omnifed.data.site import Normalisation
from omnifed.files import not_written
from omnifed.predict.source import PRIVATE, write_png

TILES = 24
"""Slices on a contact sheet."""
LARGEST = 2048
"""Longest side of an overlay in pixels."""


def drawn(image: np.ndarray, mask: np.ndarray, how: Normalisation, *, longest: int = LARGEST) -> np.ndarray:
    """Draws a mask over a normalised image.

    Args:
        image: (C, H, W) float32, normalised.
        mask: (H, W) label ids.
        how: the normalisation.
        longest: side in pixels to which larger images are shrunk.

    Returns:
        (h, w, 3) uint8.
    """
    scale = min(1.0, longest / max(mask.shape))
    size = (max(1, round(mask.shape[0] * scale)), max(1, round(mask.shape[1] * scale)))
    small = resize_image(image, size)
    if how.kind in ("window", "minmax"):  # -1..1: all slices of a volume have the same contrast
        shown = np.rint((np.clip(small, -1, 1) + 1) * 127.5).astype(np.uint8)
        picture = np.repeat(shown, 3 // len(shown), axis=0).transpose(1, 2, 0)
    else:
        picture = to_uint8(small)
    return overlay(picture, resize_mask(mask, size))


def shown_slices(foreground: Sequence[int]) -> list[int]:
    """Slices for a contact sheet, in order: those with the most foreground, or evenly spaced ones where none has any.

    Args:
        foreground: labelled pixels of each slice.
    """
    counts = np.asarray(foreground)
    if not counts.any():
        return sorted(set(np.linspace(0, len(counts) - 1, TILES).round().astype(int).tolist()))
    most = np.argsort(-counts, kind="stable")[:TILES]
    return sorted(int(k) for k in most if counts[k])


def write_sheet(path: Path, tiles: Sequence[np.ndarray], numbers: Sequence[int], labels: dict[int, str]) -> None:
    """Writes the contact sheet of slices ``numbers`` (0-based) of a volume.

    Raises:
        OmniFedError: OF103 if it cannot be written.
    """
    write_png(path, contact_sheet(tiles, [f"slice {k + 1}" for k in numbers], labels, side=SIDE))


class SliceFolder:
    """``0001.png``, ``0002.png`` ... in a folder that appears when it is complete.

    Args:
        path: the folder; one that exists is replaced.

    Raises:
        OmniFedError: OF103 if it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._count = path, 0
        try:
            self._part = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part"))
        except OSError as error:
            raise not_written(path, error) from None

    def add(self, picture: np.ndarray) -> None:
        """Writes the next slice, (H, W, 3) uint8."""
        self._count += 1
        file = self._part / f"{self._count:04d}.png"
        try:
            Image.fromarray(picture).save(file, compress_level=1)
            file.chmod(PRIVATE)
        except OSError as error:
            raise not_written(self.path, error) from None

    def publish(self) -> None:
        """Gives the folder its name."""
        try:
            if self.path.is_dir():
                shutil.rmtree(self.path)
            self._part.rename(self.path)
        except OSError as error:
            raise not_written(self.path, error) from None

    def discard(self) -> None:
        """Removes what was not published."""
        shutil.rmtree(self._part, ignore_errors=True)
