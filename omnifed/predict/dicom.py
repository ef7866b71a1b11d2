"""A DICOM series: headers first, ordered by position, then slice by slice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from omnifed.data.readers.dicom import frames_of, place_of, read_heads
from omnifed.data.sandbox.failures import unbelievable
from omnifed.data.sandbox.limits import limits_for
from omnifed.data.sandbox.process import SANDBOX, Nothing
from omnifed.files import write_atomic
from omnifed.predict.refer import SEG_ERRORS
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
        OmniFedError: OF212..OF216 and OF880..OF883 as the reader says: a file that is not readable may be a slice;
            OF625..OF627 not a whole volume; OF640 or OF641 no segmentation could refer to it.
    """

    def __init__(self, path: Path, files: Sequence[Path], voi: bool) -> None:
        heads, failed = read_heads(path, files)
        if failed:
            raise failed[0][1]
        if len({(head.rows, head.columns) for head in heads}) > 1:
            raise no_stack(f"{path}: images of several sizes")
        if len(heads) > 1 and any(head.frames > 1 for head in heads):
            raise no_stack(f"{path}: several files, of which one holds a whole volume")
        places = [(head, k) for head in heads for k in range(head.frames)]
        places.sort(key=lambda one: (*place_of(one[0].planes[one[1]]), one[0].instance, one[1]))
        self._path, self._places, self._voi = path, places, voi
        self._files = [str(head.path) for head, _ in (places if len(heads) > 1 else places[:1])]
        planes = [head.planes[k] for head, k in places]
        distance = distance_of(planes, str(path))
        self._seg("seg check", {"count": len(places)})  # refused here, not after the work
        self.masks = np.zeros((len(places), heads[0].rows, heads[0].columns), np.uint8)
        self.voxel_ml: float | None = None
        if distance is not None and planes[0] is not None:
            self.voxel_ml = float(np.linalg.norm(np.cross(planes[0][:, 0], planes[0][:, 1]))) * distance / 1000
        uneven = distance is None and len(places) > 1
        self.warnings: tuple[str, ...] = ("the distance between slices varies: no volume in ml",) if uneven else ()

    def pixels(self, chosen: Sequence[int]) -> Iterator[np.ndarray]:
        """Slices in physical units, (H, W) or (H, W, 3)."""
        if len(self._files) == 1:
            head = self._places[0][0]
            yield from (piece.pixels for piece in frames_of(head, [self._places[k][1] for k in chosen], voi=self._voi))
            return
        for k in chosen:
            yield next(frames_of(self._places[k][0], voi=self._voi)).pixels

    def write(self, path: Path, model: Model) -> None:
        """A DICOM SEG on the frame of reference of the series."""
        card = model.card
        values = {"labels": list(card.labels.items()), "version": card.omnifed, "sha256": model.sha256}
        found = self._seg("seg write", values, [self.masks])
        if len(found) != 1 or found[0].dtype != np.uint8 or found[0].ndim != 1:
            raise unbelievable(f"{self._path}: no segmentation")
        write_atomic(path, found[0].tobytes(), mode=0o600)

    def _seg(self, name: str, values: dict[str, Any], masks: Sequence[np.ndarray] = ()) -> list[np.ndarray]:
        size, held = sum(Path(file).stat().st_size for file in self._files), sum(array.nbytes for array in masks)
        # highdicom holds the masks several times, and the frames of each label as bits.
        limits = limits_for(size, pixels=held + len(self._files) * 2**18, held=8 * held)
        return SANDBOX.ask(
            name, {"files": self._files, **values}, limits, Nothing, about=str(self._path),
            room=2**24 + 32 * held, arrays=masks, errors=SEG_ERRORS,
        )[1]  # fmt: skip
