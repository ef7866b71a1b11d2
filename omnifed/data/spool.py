"""Prepared slices on their way to disk: appended as they are decoded, then sorted into the splits."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from omnifed.data.prepared import Prepared
from omnifed.data.readers.base import Spacing
from omnifed.data.site import IGNORE
from omnifed.files import write_json
from omnifed.models.base import SiteSpec


@dataclass(frozen=True)
class Entry:
    """What is known of a prepared slice beside its pixels; ``split`` is what the index fixes."""

    name: str
    patient: str
    split: str | None
    has_mask: bool
    spacing: Spacing
    key: str


class Spool:
    """Appends prepared slices to two files, so that a site of any size passes through constant memory.

    Args:
        folder: private folder (mode 0700).
        channels: of the images.
        size: (H, W).
    """

    def __init__(self, folder: Path, channels: int, size: tuple[int, int]) -> None:
        self.folder, self.shape, self.size = folder, (channels, *size), size
        self.entries: list[Entry] = []
        self._images = (folder / "images.bin").open("wb")
        self._masks = (folder / "masks.bin").open("wb")

    def add(self, image: np.ndarray, mask: np.ndarray, entry: Entry) -> None:
        """Appends image (C, H, W) float16 and mask (H, W) uint8."""
        if image.shape != self.shape or mask.shape != self.size or image.dtype != np.float16:
            raise ValueError(f"got image {image.shape} {image.dtype}, mask {mask.shape} for {self.shape}")
        self._images.write(np.ascontiguousarray(image).tobytes())
        self._masks.write(np.ascontiguousarray(mask).tobytes())
        self.entries.append(entry)

    def close(self) -> None:
        """Closes both files; may be called twice."""
        self._images.close()
        self._masks.close()

    def write(self, splits: Sequence[str], salt: bytes) -> None:
        """Writes each split's arrays and its ``<split>.json``, then removes the spool.

        Args:
            splits: split of each entry, ``""`` for none.
            salt: of the case ids.
        """
        self.close()
        n = len(self.entries)
        images = np.memmap(self.folder / "images.bin", np.float16, "r", shape=(n, *self.shape))
        masks = np.memmap(self.folder / "masks.bin", np.uint8, "r", shape=(n, *self.size))
        for split in ("train", "val", "test"):
            rows = [i for i, s in enumerate(splits) if s == split]
            _copy(images, rows, self.folder / f"{split}.images.npy")
            _copy(masks, rows, self.folder / f"{split}.masks.npy")
            kept = [self.entries[i] for i in rows]
            head = {
                "patients": [e.patient for e in kept],
                "ids": [hashlib.sha256(salt + e.name.encode()).hexdigest()[:16] for e in kept],
                "keys": [e.key for e in kept],
                "has_mask": [e.has_mask for e in kept],
                "spacing": [[v if v == v else None for v in e.spacing] for e in kept],
            }
            write_json(self.folder / f"{split}.json", head, mode=0o600)
        del images, masks
        (self.folder / "images.bin").unlink()
        (self.folder / "masks.bin").unlink()


def _copy(source: np.ndarray, rows: list[int], path: Path) -> None:
    shape = (len(rows), *source.shape[1:])
    if not rows:
        np.save(path, np.empty(shape, source.dtype))  # an empty file cannot be mapped
    else:
        target = np.lib.format.open_memmap(path, mode="w+", dtype=source.dtype, shape=shape)
        for k, i in enumerate(rows):
            target[k] = source[i]
        target.flush()
    path.chmod(0o600)


def load_split(folder: Path, split: str, spec: SiteSpec, present: np.ndarray) -> Prepared:
    """Maps one split that :meth:`Spool.write` wrote."""
    head: dict[str, Any] = json.loads((folder / f"{split}.json").read_text())
    mode: Literal["r"] | None = "r" if head["ids"] else None
    spacing = [[np.nan if v is None else v for v in pair] for pair in head["spacing"]]
    return Prepared(
        spec=spec,
        images=np.load(folder / f"{split}.images.npy", mmap_mode=mode, allow_pickle=False),
        masks=np.load(folder / f"{split}.masks.npy", mmap_mode=mode, allow_pickle=False),
        has_mask=np.array(head["has_mask"], bool),
        patients=tuple(head["patients"]),
        ids=tuple(head["ids"]),
        keys=tuple(head["keys"]),
        spacing=np.array(spacing, np.float32).reshape(-1, 2),
        present=present,
    )


def label_counts(masks: np.ndarray, classes: int) -> np.ndarray:
    """Pixels of each label in (N, H, W) masks, (classes,) int64; ``IGNORE`` is not counted."""
    counts = np.zeros(IGNORE + 1, np.int64)
    for mask in masks:
        counts += np.bincount(mask.ravel(), minlength=IGNORE + 1)
    return counts[:classes]
