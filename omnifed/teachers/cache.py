"""The teacher's maps on disk: computed once, int8, keyed by content; what a distilled student learns from.

A file holds one view of one image: logits (C, h, w) and features (F, h', w') as int8 with one float16 scale a channel
(84 KB for SAM at 256 pixels and 5 classes). Attention maps, affinities and the like are derived from these. The name of
the file is sha256(teacher id, image key, view, preprocessing version): a changed image, teacher or rule is computed
anew. Maps tell what a patient's image shows, so each file is encrypted with the site's vault key and bound to its name:
an altered, swapped or foreign file is a damaged one, and computed anew as well.
"""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from omnifed.data.augment import UPRIGHT
from omnifed.data.prepared import Prepared
from omnifed.data.views import apply_view, mirrorings
from omnifed.errors import OmniFedError
from omnifed.models.base import Out
from omnifed.progress import Progress
from omnifed.states import read_sealed, write_sealed
from omnifed.teachers.base import Teacher
from omnifed.teachers.network import PREPROCESSING

log = logging.getLogger(__name__)

FLIP_LIMIT = 0.3
"""Largest flip error at which the teacher's maps may be mirrored together with an image."""

STORE_BYTES = 256 * 2**20
"""Bytes of int8 maps that a cache keeps in memory; the least recently used ones leave first."""

_LOGITS = "logits"
_PURPOSE = "teacher cache"
_BATCH = 8
_FLIP_IMAGES = 12

Maps = dict[str, tuple[Tensor, Tensor]]
"""By name ("logits" or a tap): int8 (channels, h, w) and float32 scale (channels, 1, 1)."""


@dataclass(frozen=True)
class CacheReport:
    """What :meth:`TeacherCache.build` did.

    Attributes:
        cached: maps (images times views) computed by this call.
        reused: maps that were there already.
        damaged: of the computed ones, those whose file was there but truncated or altered.
        bytes: size of all of the split's files.
        flip_error: share of the foreground (0..1) that changes its label when the image is mirrored, predicted and
            mirrored back; NaN-free: 0 where nothing is foreground.
        joint_flips: whether ``flip_error`` was measured, and is at most :data:`FLIP_LIMIT`.
    """

    cached: int
    reused: int
    damaged: int
    bytes: int
    flip_error: float
    joint_flips: bool


class TeacherCache:
    """One teacher's maps of one site's images. They derive from patient data: folder 0700, files 0600 and encrypted.

    Args:
        folder: made if absent.
        teacher_id: :attr:`omnifed.teachers.base.Teacher.id`.
        key: the site's vault key, 32 bytes.
    """

    def __init__(self, folder: Path, teacher_id: str, key: bytes) -> None:
        self.folder, self.teacher_id, self._key = folder, teacher_id, key
        self._store: OrderedDict[tuple[str, int], Maps] = OrderedDict()
        self._stored = 0

    def build(
        self,
        teacher: Teacher,
        prepared: Prepared,
        views: int,
        progress: Progress | None = None,
        *,
        mirrored: bool = True,
    ) -> CacheReport:
        """Computes what is missing or damaged. Each map is a whole file as soon as it is there: stop it at any time.

        Args:
            teacher: whose :attr:`id` is this cache's.
            prepared: the images, with or without masks.
            views: views an image, see :mod:`omnifed.data.views`.
            progress: told after each batch.
            mirrored: False measures no flip error, which is then 0, and forbids joint flips.

        Raises:
            OmniFedError: OF324 if it is another teacher. OF103 if the disk is full: what is finished stays.
        """
        if teacher.id != self.teacher_id:
            raise OmniFedError(
                "OF324",
                "A cache belongs to one teacher: same weights, same preprocessing.",
                seen=f"cache of {self.teacher_id[:12]}, teacher {teacher.id[:12]}",
                remedy="Open the cache with the id of the teacher that fills it.",
            )
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        for plain in self.folder.glob("*.safetensors"):  # of releases that did not encrypt
            plain.unlink()
        wanted = [(row, view) for row in range(len(prepared)) for view in range(views)]
        damaged, missing = 0, []
        for row, view in wanted:
            path = self._path(prepared.keys[row], view)
            if not path.exists():
                missing.append((row, view))
            elif self._read(path) is None:
                damaged += 1
                missing.append((row, view))
        for start in range(0, len(missing), _BATCH):
            part = missing[start : start + _BATCH]
            self._compute(teacher, prepared, part)
            if progress is not None:
                done = min(start + _BATCH, len(missing))
                progress(done, len(missing), f"teacher's maps {done}/{len(missing)}")
        if damaged:
            log.warning("%d damaged files of the teacher's cache were computed again.", damaged)
        error = self._flip_error(teacher, prepared) if mirrored else 0.0
        sizes = [self._path(prepared.keys[row], view).stat().st_size for row, view in set(wanted)]
        return CacheReport(
            cached=len(missing),
            reused=len(wanted) - len(missing),
            damaged=damaged,
            bytes=sum(sizes),
            flip_error=error,
            joint_flips=mirrored and error <= FLIP_LIMIT,
        )

    def get(self, keys: Sequence[str], views: Sequence[int]) -> Out:
        """Maps of B images.

        Args:
            keys: content hashes, :attr:`omnifed.data.prepared.Prepared.keys`.
            views: the view of each.

        Returns:
            Logits (B, C, h, w) and features by tap (B, F, h', w'), float32.

        Raises:
            OmniFedError: OF325 if a file is missing or damaged.
        """
        rows = [self._maps(key, view) for key, view in zip(keys, views, strict=True)]
        found = {
            name: torch.stack([row[name][0] for row in rows]) * torch.stack([row[name][1] for row in rows])
            for name in rows[0]
        }
        return Out(logits=found.pop(_LOGITS), features=found)

    def _maps(self, key: str, view: int) -> Maps:
        if (key, view) in self._store:
            self._store.move_to_end((key, view))
            return self._store[key, view]
        maps = self._read(self._path(key, view))
        if maps is None:
            raise OmniFedError(
                "OF325",
                "Every map that training asks for must be whole in the teacher's cache.",
                seen=f"view {view} of image {key[:12]} in {self.folder}",
                remedy="Run the teach task again: it computes only what is missing or damaged.",
            )
        self._store[key, view] = maps
        self._stored += _bytes(maps)
        while self._stored > STORE_BYTES and len(self._store) > 1:
            self._stored -= _bytes(self._store.popitem(last=False)[1])
        return maps

    def _compute(self, teacher: Teacher, prepared: Prepared, part: Sequence[tuple[int, int]]) -> None:
        upright = prepared.spec.modality in UPRIGHT
        images = torch.stack(
            [apply_view(_image(prepared, row), prepared.keys[row], view, upright=upright) for row, view in part]
        )
        out = teacher.predict(images)
        for place, (row, view) in enumerate(part):
            maps = {_LOGITS: out.logits[place], **{name: value[place] for name, value in out.features.items()}}
            arrays = {}
            for name, value in maps.items():
                arrays[name], arrays[f"{name}/scale"] = quantise(value.float().cpu().numpy())
            write_sealed(self._path(prepared.keys[row], view), arrays, {}, self._key, _PURPOSE)
            if gone := self._store.pop((prepared.keys[row], view), None):
                self._stored -= _bytes(gone)

    def _flip_error(self, teacher: Teacher, prepared: Prepared) -> float:
        """Measured once a teacher and set of images, on up to a dozen of them in each mirroring; then remembered."""
        mirrors = mirrorings(upright=prepared.spec.modality in UPRIGHT)
        keys = sorted(prepared.keys)[:: max(1, -(-len(prepared) // _FLIP_IMAGES))]
        path = self.folder / f"flips-{_hash(self.teacher_id, *keys)[:32]}.sealed"
        if path.exists():
            try:
                return float(read_sealed(path, self._key, _PURPOSE)[0]["error"])
            except (OmniFedError, KeyError):
                pass  # damaged: measured again below
        changed = foreground = 0
        for row in [prepared.keys.index(key) for key in keys]:
            image = _image(prepared, row)
            logits = teacher.predict(torch.stack([image.flip(axes) for axes in mirrors])).logits
            plain, *others = [x.argmax(0).flip(axes) for x, axes in zip(logits, mirrors, strict=True)]
            for other in others:
                changed += int((plain != other).sum())
                foreground += int(((plain > 0) | (other > 0)).sum())
        error = changed / foreground if foreground else 0.0
        write_sealed(path, {"error": np.array(error)}, {}, self._key, _PURPOSE)
        log.info("Flip error of the teacher: %.3f of the foreground (limit %.2f).", error, FLIP_LIMIT)
        return error

    def _path(self, key: str, view: int) -> Path:
        return self.folder / f"{_hash(self.teacher_id, key, view, PREPROCESSING)}.sealed"

    def _read(self, path: Path) -> Maps | None:
        """The maps of one file, None if it is absent, truncated, altered or another's."""
        try:
            arrays, _ = read_sealed(path, self._key, _PURPOSE)
            return {
                name: (torch.from_numpy(value), torch.from_numpy(arrays[f"{name}/scale"]).float()[:, None, None])
                for name, value in arrays.items()
                if not name.endswith("/scale")
            }
        except (OmniFedError, KeyError):
            return None


def quantise(maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Per channel to int8: q = round(x / s), s = max |x| / 127 rounded up to float16; the error is at most s / 2.

    Args:
        maps: (channels, h, w) float32, finite; |x| is cut at 127 * 65504, which only a diverged teacher reaches.

    Returns:
        int8 of the same shape and float16 scale (channels,); a channel of zeros has scale 0.
    """
    largest = np.abs(maps).max(axis=(1, 2)).astype(np.float64) / 127
    largest = np.minimum(largest, np.finfo(np.float16).max)
    scale = largest.astype(np.float16)
    with np.errstate(over="ignore"):  # of the largest float16, whose successor is not taken
        scale = np.where(scale < largest, np.nextafter(scale, np.float16(np.inf)), scale)
    steps = np.where(scale > 0, scale, 1).astype(np.float32)[:, None, None]
    return np.clip(np.rint(maps / steps), -127, 127).astype(np.int8), scale


def _image(prepared: Prepared, row: int) -> Tensor:
    return torch.from_numpy(np.asarray(prepared.images[row], np.float32))


def _bytes(maps: Maps) -> int:
    return sum(values.numel() + 4 * scale.numel() for values, scale in maps.values())


def _hash(*parts: object) -> str:
    return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()
