"""PNG, JPEG, TIFF, BMP, decoded. Runs in the process that reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import (
    BmpImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
)

from omnifed.data.readers.base import MAX_PIXELS, MAX_VOXELS, check_size, damaged
from omnifed.data.readers.pieces import few, flat
from omnifed.data.sandbox.failures import refused
from omnifed.data.sandbox.operations import Answer
from omnifed.errors import OmniFedError

FORMATS = tuple(
    plugin.format
    for plugin in (
        PngImagePlugin.PngImageFile,
        JpegImagePlugin.JpegImageFile,
        TiffImagePlugin.TiffImageFile,
        BmpImagePlugin.BmpImageFile,
    )
)
"""Decoders that are tried: of the forty that Pillow has, those that are promised."""
_GREY = {"L", "I", "I;16", "I;16L", "I;16B", "F"}
_CHUNK = 64 * 2**20
_MOST_PAGES = 1024
Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2  # Pillow refuses at twice this


def pages(path: str, mask: bool, first: int) -> Answer:
    """Pages from ``first`` on as arrays, as many as fit into one answer, at least one; and how many there are."""
    count, arrays = _pages(Path(path), mask=mask, first=first, most=_CHUNK)
    return {"count": count}, arrays


def values(path: str) -> Answer:
    """Values of a raster mask; it states no names."""
    file = Path(path)
    _, found = _pages(file, mask=True, first=0, most=MAX_VOXELS)
    return few(np.unique(np.concatenate([np.unique(flat(page, file)) for page in found]))), []


def _pages(path: Path, *, mask: bool, first: int, most: int) -> tuple[int, list[np.ndarray]]:
    try:
        with Image.open(path, formats=FORMATS) as image:
            check_size(image.size, path)
            count = _count(image, path)
            check_size((count, *image.size), path, limit=MAX_VOXELS)
            found: list[np.ndarray] = []
            for page in range(first, count):
                image.seek(page)
                check_size(image.size, path)
                image.load()
                found.append(_array(image, mask))
                if sum(array.nbytes for array in found) + found[-1].nbytes > most:
                    break
            return count, found
    except UnidentifiedImageError:
        raise refused("OF211", str(path)) from None
    except Image.DecompressionBombError:
        raise refused("OF213", f"{path}: more than {MAX_PIXELS} pixels") from None
    except (OmniFedError, MemoryError):
        raise
    except Exception as error:
        # Decoders raise almost anything on damaged bytes; each such file is counted and named, none ends the run.
        raise damaged(path, error) from None


def _count(image: Image.Image, path: Path) -> int:
    """Pages of a file; a chain of them is followed no further than is permitted."""
    for page in range(1, _MOST_PAGES + 1):
        try:
            image.seek(page)
        except EOFError:
            return page
    raise refused("OF213", f"{path}: more than {_MOST_PAGES} pages")


def _array(image: Image.Image, mask: bool) -> np.ndarray:
    """(H, W) or (H, W, 3); the palette index of a mask, the palette colour of an image."""
    if image.mode in _GREY or image.mode == "RGB" or (image.mode == "P" and mask):
        return np.asarray(image)
    if image.mode == "1":
        return np.asarray(image.convert("L"))  # 0 and 255, as every viewer shows it
    if image.mode == "LA":
        return np.asarray(image)[..., 0]
    return np.asarray(image.convert("RGB"))
