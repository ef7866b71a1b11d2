"""One DICOM file, decoded. Runs in the process that reads.

DICOM from outside is hostile input: deflated files are refused before they are inflated, sizes are checked before
pixels are decoded, and RLE is decoded by pydicom's own decoder.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from PIL import Image
from pydicom.encaps import get_frame
from pydicom.filereader import read_dataset
from pydicom.pixels import apply_modality_lut, apply_voi_lut, iter_pixels
from pydicom.pixels.processing import apply_color_lut
from pydicom.tag import BaseTag
from pydicom.uid import (
    JPEG2000TransferSyntaxes,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    RLELossless,
    UID_dictionary,
)

from omnifed.data.readers.base import MAX_PIXELS, MAX_VOXELS, UNKNOWN, Spacing, check_size, damaged
from omnifed.data.readers.keep import Keep
from omnifed.data.sandbox.failures import refused
from omnifed.data.sandbox.operations import Answer
from omnifed.errors import OmniFedError

NO_IMAGE = {"SEG", "RTSTRUCT", "RTPLAN", "RTDOSE", "SR", "PR", "KO", "REG"}
"""Modalities without pixels of a patient."""
_LONGEST = 64
"""Characters of a header's text that are told."""
_RLE_RATIO = 64
"""Two bytes of RLE stand for 128 at most."""
_JPEG = {JPEGBaseline8Bit, JPEGExtended12Bit, *JPEG2000TransferSyntaxes}
"""Whose frames state a size of their own that Pillow can tell without decoding."""
Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2  # Pillow refuses at twice this


class _Whole(io.BufferedReader):
    """A file of which no more is read than there is: a length of 4 GB in a header makes room for that otherwise."""

    def read(self, size: int | None = -1, /) -> bytes:
        """At most ``size`` bytes."""
        if size is not None and size > 2**16:
            size = min(size, max(0, os.fstat(self.fileno()).st_size - self.tell()))
        return super().read(size)


def _after_meta(tag: BaseTag, vr: str | None, length: int) -> bool:
    return tag.group != 2


def open_dicom(path: Path, *, pixels: bool = True) -> pydicom.Dataset:
    """Opens one DICOM file.

    Raises:
        OmniFedError: OF212 damaged or not DICOM, OF214 deflated.
    """
    try:
        with _Whole(io.FileIO(path)) as file:
            if file.read(132)[128:] != b"DICM":
                raise damaged(path, "no DICOM file")
            syntax = read_dataset(file, False, True, stop_when=_after_meta).get("TransferSyntaxUID")
            if syntax is not None and (syntax.is_deflated or "Deflated" in syntax.name):
                raise refused("OF214", str(path))
            file.seek(0)
            return pydicom.dcmread(file, stop_before_pixels=not pixels)
    except (OmniFedError, MemoryError):
        raise
    except Exception as error:
        raise damaged(path, error) from None


def head(path: str, whole: bool) -> Answer:
    """What the parent learns of a file before its pixels: :class:`omnifed.data.readers.dicom.FileHead`.

    Args:
        path: the file.
        whole: its pixels are asked for next: it is read once for both questions.
    """
    file = Path(path)
    data = _opened.get(file, lambda: open_dicom(file)) if whole else open_dicom(file, pixels=False)
    if "Rows" not in data or str(data.get("Modality", "")) in NO_IMAGE:
        return {"image": False}, []
    count = frame_count(data)
    check_size((count, data.Rows, data.Columns), file, limit=MAX_VOXELS)
    planes = [plane_of(data, k) for k in range(count)]
    texts = {
        "modality": "Modality",
        "body_part": "BodyPartExamined",
        "series": "SeriesInstanceUID",
        "uid": "SOPInstanceUID",
    }
    answer = {
        "image": True,
        "rows": int(data.Rows),
        "columns": int(data.Columns),
        "frames": count,
        "instance": int(data.get("InstanceNumber") or 0),
        **{name: str(data.get(keyword) or "")[:_LONGEST] for name, keyword in texts.items()},
    }
    stack = np.array([np.full((3, 3), np.nan) if plane is None else plane for plane in planes], np.float64)
    return answer, [stack, np.array([spacing_of(data, k) for k in range(count)], np.float64)]


def decoded(path: str, indices: Sequence[int], voi: bool) -> Answer:
    """Frames of a file as arrays."""
    return {}, list(frames(Path(path), indices, voi=voi))


def frames(path: Path, indices: Sequence[int], *, voi: bool = False) -> Iterator[np.ndarray]:
    """Decodes frames of one file, one by one.

    Args:
        path: the file.
        indices: 0-based frames, in the order to read.
        voi: apply the VOI table or window (X-ray, colour).

    Returns:
        (H, W) or (H, W, 3) in physical units.

    Raises:
        OmniFedError: OF212 damaged, OF213 too large, OF214 deflated, OF216 no decoder.
    """
    data = _opened.get(path, lambda: open_dicom(path))
    check_size((data.Rows, data.Columns), path)
    check_size((frame_count(data), data.Rows, data.Columns), path, limit=MAX_VOXELS)
    try:
        _check_bytes(data, path, indices)
        plugin = "pydicom" if data.file_meta.TransferSyntaxUID == RLELossless else ""
        for k, stored in zip(indices, iter_pixels(data, indices=indices, decoding_plugin=plugin), strict=True):
            yield _physical(data, stored, k, voi)
    except (OmniFedError, MemoryError):
        raise
    except RuntimeError as error:
        if "missing dependencies" not in str(error):
            raise damaged(path, error) from None
        syntax = data.file_meta.TransferSyntaxUID
        name = syntax.name if syntax in UID_dictionary else "an unknown transfer syntax"
        raise refused("OF216", f"{path}: no decoder for {name}") from None
    except Exception as error:
        raise damaged(path, error) from None


_opened: Keep[pydicom.Dataset] = Keep()


def _check_bytes(data: pydicom.Dataset, path: Path, indices: Sequence[int]) -> None:
    """Can so few bytes hold so many pixels? Asked before room is made for them."""
    count, syntax = frame_count(data), data.file_meta.TransferSyntaxUID
    samples = int(data.SamplesPerPixel)
    if samples not in (1, 3):
        raise damaged(path, f"{samples} samples a pixel")
    need = data.Rows * data.Columns * samples * int(data.BitsAllocated) // 8
    have = len(data.PixelData) if "PixelData" in data else 0
    if not syntax.is_encapsulated and "PixelData" in data:
        third = "422" in str(data.PhotometricInterpretation)  # stores two samples of three
        if have < count * need * (2 if third else 3) // 3:
            raise damaged(path, f"{have} bytes for {count * need}")
    if syntax == RLELossless and have * _RLE_RATIO < count * need:
        raise damaged(path, f"{have} bytes of RLE for {count * need}")
    if syntax in _JPEG:
        for k in indices:
            frame = get_frame(data.PixelData, k, number_of_frames=count)
            with Image.open(io.BytesIO(frame)) as image:
                if image.size != (data.Columns, data.Rows):
                    raise damaged(path, "a frame of another size than the header says")


def frame_count(data: pydicom.Dataset) -> int:
    """Frames of a file."""
    return int(data.get("NumberOfFrames") or 1)


def plane_of(data: pydicom.Dataset, k: int) -> np.ndarray | None:
    """Matrix (3, 3) from (row, column, 1) of frame k to RAS+ mm; None where the file does not say."""
    position = functional(data, k, "PlanePositionSequence", "ImagePositionPatient")
    direction = functional(data, k, "PlaneOrientationSequence", "ImageOrientationPatient")
    if position is None or direction is None or len(position) != 3 or len(direction) != 6:
        return None
    spacing = spacing_of(data, k)
    across, down = np.array(direction[:3], float), np.array(direction[3:], float)
    columns = [down * spacing[0], across * spacing[1], np.array(position, float)]
    # LPS, as DICOM has it, to RAS, as NIfTI has it.
    plane: np.ndarray = np.stack(columns, axis=1) * np.array([[-1.0], [-1.0], [1.0]])
    return plane if np.isfinite(plane).all() else None


def _physical(data: pydicom.Dataset, stored: np.ndarray, k: int, voi: bool) -> np.ndarray:
    """Stored values to units: palette or rescale, VOI where asked, MONOCHROME1 inverted."""
    if data.PhotometricInterpretation == "PALETTE COLOR":
        colour = apply_color_lut(stored, data)
        return (colour >> 8).astype(np.uint8) if colour.dtype == np.uint16 else colour
    if stored.ndim == 3:
        return stored[..., :3]
    slope = functional(data, k, "PixelValueTransformationSequence", "RescaleSlope")
    intercept = functional(data, k, "PixelValueTransformationSequence", "RescaleIntercept")
    pixels: np.ndarray
    if "ModalityLUTSequence" in data:
        pixels = apply_modality_lut(stored, data)
    else:
        pixels = stored.astype(np.float32)
        if slope is not None and intercept is not None:
            pixels *= np.float32(slope)
            pixels += np.float32(intercept)
    if voi and ("WindowCenter" in data or "VOILUTSequence" in data):
        # A window of width 0 or a table without entries: the display hint is broken, not the image.
        with contextlib.suppress(ValueError):
            # A table is indexed by whole numbers; a window takes any.
            pixels = apply_voi_lut(pixels.astype(np.int32) if "VOILUTSequence" in data else pixels, data)
    pixels = pixels.astype(np.float32, copy=False)
    if data.PhotometricInterpretation == "MONOCHROME1":
        pixels = pixels.max() + pixels.min() - pixels
    return pixels


def spacing_of(data: pydicom.Dataset, k: int) -> Spacing:
    """Row and column spacing of frame k in mm, NaN where the file does not say."""
    value = functional(data, k, "PixelMeasuresSequence", "PixelSpacing") or data.get("ImagerPixelSpacing")
    if value is None or len(value) != 2 or not all(0 < float(v) < 1000 for v in value):
        return UNKNOWN
    return float(value[0]), float(value[1])


def functional(data: pydicom.Dataset, k: int, group: str, keyword: str) -> Any:
    """An attribute of frame k: its own functional group, else the shared one, else the file's."""
    for sequence, index in (("PerFrameFunctionalGroupsSequence", k), ("SharedFunctionalGroupsSequence", 0)):
        items = data.get(sequence)
        if items and index < len(items) and items[index].get(group):
            value = items[index].get(group)[0].get(keyword)
            if value is not None:
                return value
    return data.get(keyword)
