"""Masks as DICOM SEG, read by highdicom and matched to the image by SOP instance UID, else by position.

Runs in the process that reads.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import pydicom

from omnifed.data.readers.base import MAX_VOXELS, Picture, Slice, check_size, damaged
from omnifed.data.readers.dicom_file import functional, open_dicom, plane_of
from omnifed.data.readers.keep import Keep
from omnifed.data.sandbox.failures import refused
from omnifed.data.sandbox.operations import Answer
from omnifed.errors import OmniFedError

POSITION_TOLERANCE = 0.1
"""Largest distance in mm between the corners of an image and of a segmentation frame that belong together."""
_SEG = "1.2.840.10008.5.1.4.1.1.66.4"
_LABELMAP = "1.2.840.10008.5.1.4.1.1.66.7"


class SegFile:
    """One SEG file: its frames by source image and by position.

    Args:
        path: the file.

    Attributes:
        names: segment number to label.
    """

    def __init__(self, path: Path) -> None:
        import highdicom

        data = open_dicom(path)
        if data.get("SOPClassUID") not in (_SEG, _LABELMAP):
            raise refused("OF221", f"{path}: a DICOM file that is no segmentation")
        self.path = path
        try:
            check_size((int(data.NumberOfFrames), data.Rows, data.Columns), path, limit=MAX_VOXELS)
            self.seg = highdicom.seg.Segmentation.from_dataset(data, copy=False)
            self.names = {int(s.SegmentNumber): str(s.SegmentLabel) for s in data.SegmentSequence}
            self.labelmap = data.get("SOPClassUID") == _LABELMAP
            self.fractional = (
                float(data.get("MaximumFractionalValue", 1)) if data.SegmentationType == "FRACTIONAL" else 0.0
            )
            self.series = {str(s.get("SeriesInstanceUID", "")) for s in data.get("ReferencedSeriesSequence", [])}
            self.by_source: dict[tuple[str, int], list[tuple[int, int]]] = defaultdict(list)
            self.by_position: list[tuple[np.ndarray, int, int]] = []
            for k, item in enumerate(data.PerFrameFunctionalGroupsSequence):
                self._index(data, k, item)
        except (OmniFedError, MemoryError):
            raise
        except Exception as error:
            raise damaged(path, error) from None

    def _index(self, data: pydicom.Dataset, k: int, item: pydicom.Dataset) -> None:
        segment = 0
        if not self.labelmap:
            segment = int(functional(data, k, "SegmentIdentificationSequence", "ReferencedSegmentNumber"))
        for derivation in item.get("DerivationImageSequence") or []:
            for source in derivation.get("SourceImageSequence") or []:
                frames = source.get("ReferencedFrameNumber")
                for number in [0] if frames is None else np.atleast_1d(frames):
                    self.by_source[(str(source.ReferencedSOPInstanceUID), int(number))].append((segment, k))
        plane = plane_of(data, k)
        if plane is not None:
            self.by_position.append((plane, segment, k))

    def frames(self, piece: Slice, *, alone: bool) -> list[tuple[int, int]]:
        """(segment, frame) pairs that lie on a slice.

        Args:
            piece: the slice.
            alone: its file has one frame, so that a reference to the file means this slice.
        """
        found = self.by_source.get((piece.uid, piece.frame), []) + (
            self.by_source.get((piece.uid, 0), []) if alone else []
        )
        if found or piece.plane is None:
            return found
        height, width = piece.pixels.shape[:2]
        corners = np.array([[0, 0, 1], [0, width - 1, 1], [height - 1, 0, 1]], float).T
        here = piece.plane @ corners
        return [
            (segment, k)
            for plane, segment, k in self.by_position
            if np.abs(plane @ corners - here).max() <= POSITION_TOLERANCE
        ]

    def pixels(self, frame: int) -> np.ndarray:
        """Stored frame (H, W); binary for a fractional segmentation (above one half)."""
        try:
            stored = self.seg.get_stored_frame(frame + 1)
        except MemoryError:
            raise
        except Exception as error:
            raise damaged(self.path, error) from None
        return stored > self.fractional / 2 if self.fractional else stored


_opened: Keep[SegFile] = Keep()


def open_seg(path: Path) -> SegFile:
    """Opens a SEG file, kept for the next question, as one usually serves every slice of its series.

    Raises:
        OmniFedError: OF212 damaged, OF213 too large, OF214 deflated, OF221 not a segmentation.
    """
    return _opened.get(path, lambda: SegFile(path))


def read_mask(path: Path, picture: Picture, drop: Collection[int] = ()) -> list[np.ndarray]:
    """Reads the segment number under every pixel of ``picture``; a slice without frames is background.

    Args:
        path: the SEG file.
        picture: the image.
        drop: segments that the site does not use; they may overlap others.

    Returns:
        (H, W) int32 arrays, in the order of ``picture.slices``.

    Raises:
        OmniFedError: OF219 another size, OF223 of another image, OF224 two segments on one pixel.
    """
    matched = _matched(open_seg(path), picture, drop)
    return [_paint(open_seg(path), piece, frames) for piece, frames in zip(picture.slices, matched, strict=True)]


def _matched(seg: SegFile, picture: Picture, drop: Collection[int]) -> list[list[tuple[int, int]]]:
    """(segment, frame) pairs on each slice."""
    uids = [piece.uid for piece in picture.slices]
    alone = len(set(uids)) == len(uids)
    matched = [seg.frames(piece, alone=alone and piece.frame == 1) for piece in picture.slices]
    if not any(matched) and picture.series not in seg.series - {""}:
        raise refused("OF223", f"{seg.path}: none of its frames belongs to the image of this row")
    return [[frame for frame in frames if frame[0] not in drop] for frames in matched]


def masks(
    path: str,
    series: str,
    uids: Sequence[str],
    frames: Sequence[int],
    drop: Sequence[int],
    chosen: Sequence[int],
    arrays: Sequence[np.ndarray],
) -> Answer:
    """:func:`read_mask` for the slices ``chosen`` of a picture.

    ``uids`` and ``frames`` name all slices of the picture, ``arrays`` are their sizes (n, 2) and planes (n, 3, 3).
    """
    sizes, planes = arrays
    pieces = tuple(
        Slice(np.broadcast_to(np.uint8(0), size), plane=plane if np.isfinite(plane).all() else None, uid=uid, frame=k)
        for size, plane, uid, k in zip(sizes, planes, uids, frames, strict=True)
    )
    seg = open_seg(Path(path))
    matched = _matched(seg, Picture(pieces, series=series), drop)
    painted = (_paint(seg, pieces[k], matched[k]) for k in chosen)
    return {}, [mask.astype(np.uint8) if mask.max() < 256 else mask for mask in painted]


def values(path: str) -> Answer:
    """Segment numbers of a SEG file and their labels."""
    return {"values": [[number, name[:64]] for number, name in open_seg(Path(path)).names.items()]}, []


def _paint(seg: SegFile, piece: Slice, frames: list[tuple[int, int]]) -> np.ndarray:
    mask = np.zeros(piece.pixels.shape[:2], np.int32)
    for segment, k in frames:
        stored = seg.pixels(k)
        if stored.shape != mask.shape:
            raise refused("OF219", f"{seg.path}: {stored.shape} for an image of {mask.shape}")
        if seg.labelmap:
            mask = stored.astype(np.int32)
            continue
        inside = stored != 0
        if (mask[inside] != 0).any():
            raise refused("OF224", f"{seg.path}: segment {segment} overlaps another")
        mask[inside] = segment
    return mask
