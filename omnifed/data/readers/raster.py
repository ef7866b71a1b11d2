"""PNG, JPEG, TIFF, BMP: one slice a page, 8 or 16 bit, float TIFF."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from omnifed.data.readers.base import Picture, Slice, check_size, damaged
from omnifed.errors import OmniFedError

_GREY = {"L", "I", "I;16", "I;16L", "I;16B", "F"}


def _pages(path: Path, *, mask: bool) -> list[np.ndarray]:
    try:
        with Image.open(path) as image:
            count = getattr(image, "n_frames", 1)
            check_size(image.size, path)
            pages = []
            for page in range(count):
                image.seek(page)
                check_size(image.size, path)
                image.load()
                pages.append(_array(image, mask))
            return pages
    except UnidentifiedImageError:
        raise OmniFedError(
            "OF211",
            "An image must be PNG, JPEG, TIFF, BMP, DICOM or NIfTI.",
            seen=str(path),
            remedy="Export the image in one of these formats, or leave it out (of the folder, of the index).",
        ) from None
    except Image.DecompressionBombError:
        check_size((2**32,), path)
        raise
    except OmniFedError:
        raise
    except Exception as error:
        # Decoders raise almost anything on damaged bytes; each such file is counted and named, none ends the run.
        raise damaged(path, f"{type(error).__name__}: {error}") from None


def _array(image: Image.Image, mask: bool) -> np.ndarray:
    """(H, W) or (H, W, 3); the palette index of a mask, the palette colour of an image."""
    if image.mode in _GREY or (image.mode == "P" and mask):
        return np.asarray(image).copy()
    if image.mode == "1":
        return np.asarray(image.convert("L"))  # 0 and 255, as every viewer shows it
    if image.mode == "LA":
        return np.asarray(image)[..., 0].copy()
    return np.asarray(image.convert("RGB"))


def read(path: Path, *, slice_axis: int = 2, voi: bool = False) -> Picture:
    """Reads every page of a raster image.

    Args:
        path: the file; neither ``slice_axis`` nor ``voi`` means anything here.
        slice_axis: ignored.
        voi: ignored.

    Raises:
        OmniFedError: OF211 not an image, OF212 damaged, OF213 too large.
    """
    pages = _pages(path, mask=False)
    return Picture(tuple(Slice(page, frame=i + 1, number=i) for i, page in enumerate(pages)))


def read_mask(path: Path, picture: Picture) -> list[np.ndarray]:
    """Reads a mask: one page for each slice of ``picture``.

    Returns:
        (H, W) arrays of file values, in the order of ``picture.slices``.

    Raises:
        OmniFedError: as :func:`read`, and OF219 if the pages do not fit the slices, OF221 for a colour picture.
    """
    pages = _pages(path, mask=True)
    volume = len(picture.slices) + len(picture.failed)
    if len(pages) != volume or (volume > 1 and picture.slices[0].plane is not None):
        raise OmniFedError(
            "OF219",
            "A mask must have the size of its image; a raster mask has no position and fits a single slice only.",
            seen=f"{path}: {len(pages)} pages for {volume} slices",
            remedy="Give the volume's mask as NIfTI or DICOM SEG, or write one index row a slice.",
        )
    return [_flat(pages[piece.number], path) for piece in picture.slices]


def mask_values(path: Path) -> dict[int, str]:
    """Values of a raster mask; it states no names."""
    return {int(value): "" for page in _pages(path, mask=True) for value in np.unique(_flat(page, path))}


def _flat(mask: np.ndarray, path: Path) -> np.ndarray:
    if mask.ndim == 2:
        return mask
    if (mask == mask[..., :1]).all():
        return mask[..., 0]
    raise OmniFedError(
        "OF221",
        "A mask must hold one label value a pixel.",
        seen=f"{path}: a colour picture",
        remedy="Export the mask as a grey or palette PNG with one value a label.",
    )
