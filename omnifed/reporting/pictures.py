"""Chosen cases as pictures inside the page: image, truth and prediction side by side."""

from __future__ import annotations

import base64
import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from omnifed.data.overlay import colour, overlay
from omnifed.data.site import IGNORE
from omnifed.errors import OmniFedError

_PANEL = 150
_GAP = 4


@dataclass(frozen=True)
class Case:
    """One strip of three panels.

    Attributes:
        id: salted case id, shortened.
        dice: mean foreground Dice.
        uri: ``data:`` address of a JPEG.
        width, height: of the strip in pixels.
    """

    id: str
    dice: float
    uri: str
    width: int
    height: int


def read_cases_of(path: Path) -> list[Case]:
    """The strips of one ``predictions/ARM/SITE.npz``, in the order in which they lie there: best, median, worst.

    Raises:
        OmniFedError: OF423 if the file is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as data:
            images, truth, pred = (np.asarray(data[name], np.uint8) for name in ("images", "truth", "pred"))
            dice, ids = np.asarray(data["dice"], np.float64), [str(i) for i in data["ids"]]
            return [_strip(images[i], truth[i], pred[i], float(dice[i]), ids[i]) for i in range(len(ids))]
    except (OSError, KeyError, ValueError, IndexError, EOFError, zipfile.BadZipFile) as error:
        raise OmniFedError(
            "OF423",
            "The files of a run folder must be whole and have the documented columns.",
            seen=f"{path}: {error}",
            remedy="Write the file again by running with --resume.",
        ) from None


def label_colours(labels: Sequence[str]) -> list[tuple[str, str]]:
    """Name and colour of each foreground label, as the overlays draw it; ``labels`` begins with the background."""
    return [(name, "#{:02x}{:02x}{:02x}".format(*colour(k))) for k, name in enumerate(labels) if k]


def _strip(image: np.ndarray, truth: np.ndarray, pred: np.ndarray, dice: float, name: str) -> Case:
    """image (H, W, 3), truth and pred (H, W) to a strip; unlabelled pixels show the image."""
    panels = [image, *(overlay(image, np.where(mask == IGNORE, 0, mask).astype(np.uint8)) for mask in (truth, pred))]
    height, width = image.shape[:2]
    scale = _PANEL / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    strip = Image.new("RGB", (3 * size[0] + 2 * _GAP, size[1]), (127, 127, 127))
    for i, panel in enumerate(panels):
        strip.paste(Image.fromarray(panel).resize(size, Image.Resampling.BILINEAR), (i * (size[0] + _GAP), 0))
    buffer = io.BytesIO()
    strip.save(buffer, "JPEG", quality=88)
    uri = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
    return Case(name[:8], dice, uri, *strip.size)
