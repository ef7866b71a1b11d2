"""DICOM: a file, a multi-frame file, or a folder that holds one series. Bytes are decoded by another process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import Field

from omnifed.config import Frozen
from omnifed.data.readers.base import MAX_VOXELS, Picture, Slice, Spacing, check_size
from omnifed.data.sandbox.failures import refused, unbelievable
from omnifed.data.sandbox.limits import limits_for
from omnifed.data.sandbox.process import SANDBOX, Nothing
from omnifed.errors import OmniFedError

_CHUNK = 32 * 2**20
"""Bytes of decoded frames asked for at a time."""
_GEOMETRY = 2**27
"""Most bytes of the places of all frames of a file."""


class _Head(Frozen):
    """Answer of the question "dicom head"."""

    image: bool
    rows: int = Field(1, ge=1)
    columns: int = Field(1, ge=1)
    frames: int = Field(1, ge=1)
    instance: int = 0
    modality: str = Field("", max_length=64)
    body_part: str = Field("", max_length=64)
    series: str = Field("", max_length=64)
    uid: str = Field("", max_length=64)


@dataclass(frozen=True)
class FileHead:
    """What is known of a DICOM file before its pixels.

    Attributes:
        path: the file.
        rows, columns, frames: its size.
        instance: InstanceNumber, 0 without one.
        modality, body_part, series, uid: DICOM Modality, BodyPartExamined, series and instance UID.
        planes: of each frame, (3, 3) from (row, column, 1) to RAS+ mm, None where not known.
        spacings: of each frame in mm, NaN where not known.
    """

    path: Path
    rows: int
    columns: int
    frames: int
    instance: int
    modality: str
    body_part: str
    series: str
    uid: str
    planes: tuple[np.ndarray | None, ...]
    spacings: tuple[Spacing, ...]


def read(path: Path, *, slice_axis: int = 2, voi: bool = False) -> Picture:
    """Reads a DICOM file or the one series of a folder, ordered by position, in physical units.

    Args:
        path: file or folder. DICOM is sliced as it was acquired.
        slice_axis: ignored.
        voi: apply the VOI table or window (X-ray, colour).

    Raises:
        OmniFedError: OF212 damaged, OF213 too large, OF214 deflated, OF215 two series, OF216 no image or no decoder,
            OF880..OF883 of the only file.
    """
    files = [path] if path.is_file() else sorted(p for p in path.iterdir() if p.is_file() and _is_dicom(p))
    heads, failed = read_heads(path, files)
    slices: list[tuple[tuple[float, ...], Slice]] = []
    for head in heads:
        try:
            slices += [((*place_of(s.plane), head.instance, s.frame), s) for s in frames_of(head, voi=voi)]
        except OmniFedError as error:
            failed.append((head.path.name, error))
    if not slices:
        raise failed[0][1]
    slices.sort(key=lambda item: item[0])
    first = heads[0]
    return Picture(
        tuple(_renumbered(piece, i) for i, (_, piece) in enumerate(slices)),
        tuple(failed),
        modality=first.modality,
        body_part=first.body_part,
        series=first.series,
    )


def read_heads(path: Path, files: Sequence[Path]) -> tuple[list[FileHead], list[tuple[str, OmniFedError]]]:
    """Reads the headers of the one series that is among files.

    Args:
        path: file or folder, for errors.
        files: DICOM files; those without an image (SEG, SR...) are left out.

    Returns:
        Header of each image, and name and error of each file that is not readable.

    Raises:
        OmniFedError: OF213 too large, OF215 two series, OF216 no image; the error of the only file.
    """
    heads: list[FileHead] = []
    failed: list[tuple[str, OmniFedError]] = []
    for file in files:
        try:
            head = read_head(file, whole=len(files) == 1)
            if head is not None:
                heads.append(head)
        except OmniFedError as error:
            failed.append((file.name, error))
    if not heads:
        if len(failed) == 1:
            raise failed[0][1]
        raise refused("OF216", f"{path}: {len(files)} DICOM files, none with readable pixels")
    series = {head.series for head in heads}
    if len(series) > 1:
        raise refused("OF215", f"{path}: {len(series)} series in {len(heads)} files")
    check_size((sum(head.frames for head in heads), heads[0].rows, heads[0].columns), path, limit=MAX_VOXELS)
    return heads, failed


def read_head(path: Path, *, whole: bool = False) -> FileHead | None:
    """Reads the header of a file; None if it holds no image.

    Args:
        path: the file.
        whole: its frames are asked for next.

    Raises:
        OmniFedError: OF212 damaged, OF213 too large, OF214 deflated, OF880..OF883.
    """
    size = path.stat().st_size
    head, arrays = SANDBOX.ask(
        "dicom head", {"path": str(path), "whole": whole}, limits_for(size), _Head, about=str(path), room=_GEOMETRY
    )
    if not head.image:
        return None
    n = head.frames
    check_size((n, head.rows, head.columns), path, limit=MAX_VOXELS)
    if [(a.shape, a.dtype) for a in arrays] != [((n, 3, 3), np.float64), ((n, 2), np.float64)]:
        raise unbelievable(f"{path}: geometry of another form")
    planes, spacings = arrays
    return FileHead(
        path=path,
        **head.model_dump(exclude={"image"}),
        planes=tuple(plane if np.isfinite(plane).all() else None for plane in planes),
        spacings=tuple((float(down), float(across)) for down, across in spacings),
    )


def _is_dicom(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM" and path.name != "DICOMDIR"


def _renumbered(piece: Slice, number: int) -> Slice:
    return Slice(piece.pixels, piece.spacing, piece.plane, piece.uid, piece.frame, number)


def frames(path: Path, indices: Sequence[int] | None = None, *, voi: bool = False) -> Iterator[Slice]:
    """Decodes frames of one file, some at a time.

    Args:
        path: the file.
        indices: 0-based frames, in the order to read; None for all.
        voi: as :func:`read`.

    Raises:
        OmniFedError: OF212 damaged, OF213 too large, OF214 deflated, OF216 no image or no decoder, OF880..OF883.
    """
    head = read_head(path, whole=True)
    if head is None:
        raise refused("OF216", f"{path}: no image")
    yield from frames_of(head, indices, voi=voi)


def frames_of(head: FileHead, indices: Sequence[int] | None = None, *, voi: bool = False) -> Iterator[Slice]:
    """As :func:`frames`, of a file whose header was read."""
    pixels = head.rows * head.columns
    check_size((pixels,), head.path)
    chosen = list(range(head.frames) if indices is None else indices)
    size, step = head.path.stat().st_size, max(1, _CHUNK // (4 * pixels))
    shape = (head.rows, head.columns)
    for start in range(0, len(chosen), step):
        part = chosen[start : start + step]
        _, arrays = SANDBOX.ask(
            "dicom frames",
            {"path": str(head.path), "indices": part, "voi": voi},
            limits_for(size, pixels=len(part) * pixels),
            Nothing,
            about=str(head.path),
            room=len(part) * pixels * 24,
        )
        if len(arrays) != len(part) or any(a.shape not in (shape, (*shape, 3)) for a in arrays):
            raise unbelievable(f"{head.path}: frames of another size")
        for k, array in zip(part, arrays, strict=True):
            yield Slice(array, head.spacings[k], head.planes[k], head.uid, frame=k + 1)


def place_of(plane: np.ndarray | None) -> tuple[float, float]:
    """Key by which slices are ordered: along the normal; those without a position come last."""
    return (1.0, 0.0) if plane is None else (0.0, float(plane[:, 2] @ normal_of(plane)))


def normal_of(plane: np.ndarray) -> np.ndarray:
    """Unit vector (3,) across a slice, in RAS."""
    normal = np.cross(plane[:, 1], plane[:, 0])
    length = float(np.linalg.norm(normal))
    return normal / length if length else normal
