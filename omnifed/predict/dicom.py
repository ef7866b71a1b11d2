"""A DICOM series: headers first, ordered by position, then slice by slice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from omnifed.data.readers.dicom import frame_count, frames, place_of, plane_of, read_heads
from omnifed.predict.seg_source import sources
from omnifed.predict.stack import distance_of, no_stack

if TYPE_CHECKING:
    from omnifed.predict.network import Model


class DicomSource:
    """One file or the files of one series.

    Args:
        path: file or folder, for errors.
        files: DICOM files; those without an image (SEG, SR...) are left out.
        voi: apply the display window.

    Raises:
        OmniFedError: OF212..OF216 as the reader says: a file that is not readable may be a slice; OF625..OF627 not a
            whole volume; OF640 or OF641 no segmentation could refer to it.
    """

    def __init__(self, path: Path, files: Sequence[Path], voi: bool) -> None:
        heads, failed = read_heads(path, files)
        if failed:
            raise failed[0][1]
        if len({(head.Rows, head.Columns) for _, head in heads}) > 1:
            raise no_stack(f"{path}: images of several sizes")
        if len(heads) > 1 and any(frame_count(head) > 1 for _, head in heads):
            raise no_stack(f"{path}: several files, of which one holds a whole volume")
        found = [(file, head, k, plane_of(head, k)) for file, head in heads for k in range(frame_count(head))]
        found.sort(key=lambda one: (*place_of(one[3]), int(one[1].get("InstanceNumber") or 0), one[2]))
        self._places = [(file, k) for file, _, k, _ in found]
        self._heads = [heads[0][1]] if len(heads) == 1 else [head for _, head, _, _ in found]
        self._voi = voi
        planes = [plane for _, _, _, plane in found]
        distance = distance_of(planes, str(path))
        sources(self._heads, len(found))  # refused here, not after the work
        self.masks = np.zeros((len(found), heads[0][1].Rows, heads[0][1].Columns), np.uint8)
        self.voxel_ml: float | None = None
        if distance is not None and planes[0] is not None:
            self.voxel_ml = float(np.linalg.norm(np.cross(planes[0][:, 0], planes[0][:, 1]))) * distance / 1000
        uneven = distance is None and len(found) > 1
        self.warnings: tuple[str, ...] = ("the distance between slices varies: no volume in ml",) if uneven else ()

    def pixels(self, chosen: Sequence[int]) -> Iterator[np.ndarray]:
        """Slices in physical units, (H, W) or (H, W, 3)."""
        if len(self._heads) == 1:
            file = self._places[0][0]
            yield from (piece.pixels for piece in frames(file, [self._places[k][1] for k in chosen], voi=self._voi))
            return
        for k in chosen:
            yield next(frames(self._places[k][0], voi=self._voi)).pixels

    def write(self, path: Path, model: Model) -> None:
        """A DICOM SEG on the frame of reference of the series."""
        from omnifed.predict.seg import SegModel, write_seg

        made_by = SegModel(version=model.card.omnifed, sha256=model.sha256)
        write_seg(path, self._heads, self.masks, labels=model.card.labels, model=made_by)
