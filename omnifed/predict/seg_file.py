"""A DICOM SEG from the files it refers to. Runs in the process that reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pydicom

from omnifed.data.readers.dicom_file import open_dicom
from omnifed.data.readers.keep import Keep
from omnifed.data.sandbox.operations import Answer
from omnifed.predict.seg import SegModel, seg_bytes
from omnifed.predict.seg_source import sources


def check(files: Sequence[str], count: int) -> Answer:
    """Refuses files that no segmentation of ``count`` slices could refer to."""
    sources(_headers(files), count)
    return {}, []


def written(
    files: Sequence[str], labels: Sequence[tuple[int, str]], version: str, sha256: str, arrays: Sequence[np.ndarray]
) -> Answer:
    """The bytes of a SEG of masks (n, H, W) uint8, in the order of the files, or of the frames by position."""
    model = SegModel(version=version, sha256=sha256)
    whole = seg_bytes(_headers(files), arrays[0], labels=dict(labels), model=model)
    return {}, [np.frombuffer(whole, np.uint8)]


def _headers(files: Sequence[str]) -> list[pydicom.Dataset]:
    paths = [Path(file) for file in files]
    return _opened.get(paths[0], lambda: [open_dicom(path, pixels=False) for path in paths], *paths)


_opened: Keep[list[pydicom.Dataset]] = Keep()
