"""DICOM: a file, a multi-frame file, or a folder that holds one series.

DICOM from outside is hostile input: deflated files are refused before they are inflated, sizes are checked before
pixels are decoded, and RLE is decoded by pydicom's own decoder.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.pixels import apply_modality_lut, apply_voi_lut, iter_pixels
from pydicom.pixels.processing import apply_color_lut
from pydicom.uid import RLELossless

from omnifed.data.readers.base import MAX_VOXELS, UNKNOWN, Picture, Slice, Spacing, check_size, damaged
from omnifed.errors import OmniFedError

_NO_IMAGE = {"SEG", "RTSTRUCT", "RTPLAN", "RTDOSE", "SR", "PR", "KO", "REG"}


def open_dicom(path: Path, *, pixels: bool = True) -> pydicom.Dataset:
    """Opens one DICOM file.

    Raises:
        OmniFedError: OF212 damaged or not DICOM, OF214 deflated.
    """
    try:
        syntax = pydicom.filereader.read_file_meta_info(path).get("TransferSyntaxUID")
        if syntax is not None and (syntax.is_deflated or "Deflated" in syntax.name):
            raise OmniFedError(
                "OF214",
                "A DICOM file must not be deflated: a small one can inflate beyond any memory.",
                seen=str(path),
                remedy="Export the file uncompressed or as RLE, JPEG or JPEG 2000.",
            )
        return pydicom.dcmread(path, stop_before_pixels=not pixels)
    except OmniFedError:
        raise
    except Exception as error:
        raise damaged(path, f"{type(error).__name__}: {error}") from None


def read(path: Path, *, slice_axis: int = 2, voi: bool = False) -> Picture:
    """Reads a DICOM file or the one series of a folder, ordered by position, in physical units.

    Args:
        path: file or folder. DICOM is sliced as it was acquired.
        slice_axis: ignored.
        voi: apply the VOI table or window (X-ray, colour).

    Raises:
        OmniFedError: OF212 damaged, OF213 too large, OF214 deflated, OF215 two series, OF216 no image or no decoder.
    """
    files = [path] if path.is_file() else sorted(p for p in path.iterdir() if p.is_file() and _is_dicom(p))
    heads, failed = read_heads(path, files)
    slices: list[tuple[tuple[float, ...], Slice]] = []
    for file, head in heads:
        try:
            instance = int(head.get("InstanceNumber") or 0)
            slices += [((*place_of(s.plane), instance, s.frame), s) for s in frames(file, voi=voi)]
        except OmniFedError as error:
            failed.append((file.name, error))
    if not slices:
        raise failed[0][1]
    slices.sort(key=lambda item: item[0])
    first = heads[0][1]
    return Picture(
        tuple(_renumbered(piece, i) for i, (_, piece) in enumerate(slices)),
        tuple(failed),
        modality=str(first.get("Modality", "")),
        body_part=str(first.get("BodyPartExamined", "") or ""),
        series=str(first.get("SeriesInstanceUID", "")),
    )


def read_heads(
    path: Path, files: Sequence[Path]
) -> tuple[list[tuple[Path, pydicom.Dataset]], list[tuple[str, OmniFedError]]]:
    """Reads the headers of the one series that is among files.

    Args:
        path: file or folder, for errors.
        files: DICOM files; those without an image (SEG, SR...) are left out.

    Returns:
        File and header without pixels of each image, and name and error of each file that is not readable.

    Raises:
        OmniFedError: OF213 too large, OF215 two series, OF216 no image; the error of the only file.
    """
    heads: list[tuple[Path, pydicom.Dataset]] = []
    failed: list[tuple[str, OmniFedError]] = []
    for file in files:
        try:
            head = open_dicom(file, pixels=False)
            if "Rows" in head and str(head.get("Modality", "")) not in _NO_IMAGE:
                heads.append((file, head))
        except OmniFedError as error:
            failed.append((file.name, error))
    if not heads:
        if len(failed) == 1:
            raise failed[0][1]
        raise OmniFedError(
            "OF216",
            "A DICOM file or folder must hold images that can be decoded here.",
            seen=f"{path}: {len(files)} DICOM files, none with readable pixels",
            remedy="Name the folder of the image series.",
        )
    series = {str(head.get("SeriesInstanceUID", "")) for _, head in heads}
    if len(series) > 1:
        raise OmniFedError(
            "OF215",
            "A DICOM folder must hold one series.",
            seen=f"{path}: {len(series)} series in {len(heads)} files",
            remedy="Move each series to a folder of its own; in an index, give each a row of its own.",
        )
    check_size((sum(frame_count(h) for _, h in heads), heads[0][1].Rows, heads[0][1].Columns), path, limit=MAX_VOXELS)
    return heads, failed


def frame_count(head: pydicom.Dataset) -> int:
    """Frames of a file."""
    return int(head.get("NumberOfFrames") or 1)


def _is_dicom(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM" and path.name != "DICOMDIR"


def _renumbered(piece: Slice, number: int) -> Slice:
    return Slice(piece.pixels, piece.spacing, piece.plane, piece.uid, piece.frame, number)


def frames(path: Path, indices: Sequence[int] | None = None, *, voi: bool = False) -> Iterator[Slice]:
    """Decodes frames of one file, one by one.

    Args:
        path: the file.
        indices: 0-based frames, in the order to read; None for all.
        voi: as :func:`read`.

    Raises:
        OmniFedError: OF212 damaged, OF213 too large, OF214 deflated, OF216 no decoder.
    """
    data = open_dicom(path)
    count = frame_count(data)
    check_size((data.Rows, data.Columns), path)
    check_size((count, data.Rows, data.Columns), path, limit=MAX_VOXELS)
    chosen = range(count) if indices is None else indices
    try:
        plugin = "pydicom" if data.file_meta.TransferSyntaxUID == RLELossless else ""
        stored = iter_pixels(data, indices=chosen, decoding_plugin=plugin)
        for k, pixels in zip(chosen, stored, strict=True):
            uid = str(data.get("SOPInstanceUID", ""))
            yield Slice(_physical(data, pixels, k, voi), spacing_of(data, k), plane_of(data, k), uid, frame=k + 1)
    except RuntimeError as error:
        if "missing dependencies" not in str(error):
            raise damaged(path, f"{type(error).__name__}: {error}") from None
        raise OmniFedError(
            "OF216",
            "A DICOM file or folder must hold images that can be decoded here.",
            seen=f"{path}: no decoder for {data.file_meta.TransferSyntaxUID.name}",
            remedy="Export the series uncompressed, or install the decoder that docs/errors/OF216.md names.",
        ) from None
    except Exception as error:
        raise damaged(path, f"{type(error).__name__}: {error}") from None


def place_of(plane: np.ndarray | None) -> tuple[float, float]:
    """Key by which slices are ordered: along the normal; those without a position come last."""
    return (1.0, 0.0) if plane is None else (0.0, float(plane[:, 2] @ normal_of(plane)))


def normal_of(plane: np.ndarray) -> np.ndarray:
    """Unit vector (3,) across a slice, in RAS."""
    normal = np.cross(plane[:, 1], plane[:, 0])
    length = float(np.linalg.norm(normal))
    return normal / length if length else normal


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
            pixels = pixels * np.float32(slope) + np.float32(intercept)
    if voi and ("WindowCenter" in data or "VOILUTSequence" in data):
        # A window of width 0 or a table without entries: the display hint is broken, not the image.
        with contextlib.suppress(ValueError):
            # A table is indexed by whole numbers; a window takes any.
            pixels = apply_voi_lut(pixels.astype(np.int32) if "VOILUTSequence" in data else pixels, data)
    pixels = pixels.astype(np.float32)
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
