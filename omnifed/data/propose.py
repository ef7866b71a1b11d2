"""Looks at a folder with an index and proposes its site.toml, for a human to review."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import numpy as np

from omnifed.data.index import Row, read_index
from omnifed.data.normalise import default_normalisation
from omnifed.data.readers.base import Picture
from omnifed.data.readers.registry import mask_values, read_image, reading_run
from omnifed.data.site import IGNORE, Modality, Normalisation, SiteConfig
from omnifed.errors import OmniFedError
from omnifed.files import write_atomic

_IMAGES, _MASKS, _LARGEST_LABEL = 12, 300, 32
_DICOM: dict[str, Modality] = {
    "CT": "ct", "MR": "mri", "CR": "xray", "DX": "xray", "MG": "xray", "RF": "xray", "XA": "xray", "OPT": "oct",
    "OCT": "oct", "OP": "fundus", "ES": "intraop", "SM": "microscopy", "GM": "microscopy",
}  # fmt: skip
_WORDS: tuple[tuple[Modality, str], ...] = (
    ("brain-mri", r"brain|hippocamp|cerebr|tumou?r_mri"),
    ("oct", r"\boct\b"),
    ("dermoscopy", r"dermo|\bskin|isic|\bph2\b|melanom"),
    ("fundus", r"fundus|retina|vessel|\bdrive\b"),
    ("intraop", r"intraop|endosc|colonosc|polyp|surg|\bsinus"),
    ("microscopy", r"microscop|nucle|histo|\bcell"),
    ("xray", r"x_?ray|\bcxr|\bchest|radiograph"),
    ("mri", r"\bmri?\b|\bt[12]\b|\bflair\b"),
    ("ct", r"\bct\b|\bct3d|_?ct$"),
)


def propose_site(folder: Path) -> SiteConfig:
    """Proposes a configuration from the index, some images and up to 300 masks.

    Modality: DICOM's, else words of the folder's name, else NIfTI means MR. Labels: the values of the masks; values
    that are no small ids (0 / 255) become 1, 2, ... through ``mask_values``; 255 beside small ids means no label.
    Image size: the median, longest side at most 256, multiples of 32. Names are DICOM SEG's, else class-1 ...

    Raises:
        OmniFedError: OF201..OF206 for a wrong index, OF225 if no sampled image is readable, OF226 if the masks look
            like no label maps.
    """
    folder = Path(folder)
    rows = read_index(folder / "index.csv")
    with reading_run():
        pictures, found = _sample(folder, rows), _values(folder, rows)
    channels = 3 if any(_colour(picture) for picture in pictures) else 1
    modality = _modality(folder.resolve().name, pictures, channels)
    labels, targets = name_labels(found)
    return SiteConfig(
        name=re.sub(r"[^a-z0-9_-]+", "-", folder.resolve().name.lower()).strip("-_")[:63] or "site",
        modality=modality,
        labels=labels,
        channels=3 if channels == 3 else 1,
        image_size=_size(pictures),
        normalisation=_normalisation(modality, channels, pictures),
        mask_values=targets,
    )


def write_site_toml(config: SiteConfig, path: Path) -> None:
    """Writes ``config`` as TOML with a comment at each key that a human should review.

    Raises:
        OmniFedError: OF103 if it cannot be written, OF209 if the file is there already.
    """
    if path.exists():
        raise OmniFedError(
            "OF209",
            "An existing site.toml is never replaced.",
            seen=str(path),
            remedy="Edit it, or move it away and run the command again.",
        )
    write_atomic(path, to_toml(config).encode())


_NOTES = {
    "modality": "dermoscopy, ct, mri, brain-mri, oct, intraop, xray, fundus, microscopy or other",
    "image_size": "height, width that the network sees; multiples of 32",
    "slice_axis": "of NIfTI volumes: 0 sagittal, 1 coronal, 2 axial",
    "unreadable_limit": "share of unreadable rows above which `omnifed check` fails",
    "labels": "0 is the background; give each label its name",
    "normalisation": "rgb, window (HU), percentile (MR) or minmax",
    "splits": "by patient; folds = k makes fold `fold` the test set",
    "mask_values": "value in the mask file = label; 255 as label means: no label here",
}


def to_toml(config: SiteConfig) -> str:
    """The text of a site.toml."""
    values = config.model_dump(mode="json")
    lines = ["# Proposed by `omnifed init-site`: review every line.", ""]
    for key, value in values.items():
        if not isinstance(value, dict):
            lines.append(f"{key} = {_value(value)}" + (f"  # {_NOTES[key]}" if key in _NOTES else ""))
    for key, value in values.items():
        if isinstance(value, dict) and value:
            lines += ["", f"[{key}]  # {_NOTES[key]}", *(f"{k} = {_value(v)}" for k, v in value.items())]
    return "\n".join(lines) + "\n"


def _value(value: object) -> str:
    """A TOML value; JSON's strings, numbers and lists are TOML's."""
    return json.dumps(value, ensure_ascii=False)


def _sample(folder: Path, rows: tuple[Row, ...]) -> list[Picture]:
    pictures, reason = [], ""
    for row in _evenly([row for row in rows if row.image], _IMAGES):
        try:
            pictures.append(read_image(folder / row.image))
        except OmniFedError as error:
            reason = reason or str(error)
    if not pictures:
        raise OmniFedError(
            "OF225",
            "A site must have at least one readable image.",
            seen=f"{folder}: {reason or 'no image is named'}",
            remedy="Correct the index; run `omnifed check DIR` once a site.toml is there to see every reason.",
        )
    return pictures


def _evenly(rows: list[Row], n: int) -> list[Row]:
    return rows if len(rows) <= n else [rows[i * len(rows) // n] for i in range(n)]


def _colour(picture: Picture) -> bool:
    return any(s.pixels.ndim == 3 and bool((s.pixels != s.pixels[..., :1]).any()) for s in picture.slices[:1])


def _modality(name: str, pictures: list[Picture], channels: int) -> Modality:
    text = name.lower().replace("-", "_").replace("_", " ")
    words = next((modality for modality, pattern in _WORDS if re.search(pattern, text)), None)
    known = Counter(_DICOM[p.modality] for p in pictures if p.modality in _DICOM).most_common(1)
    if known:
        modality = known[0][0]
        brain = words == "brain-mri" or any(re.search("BRAIN|HEAD", p.body_part.upper()) for p in pictures)
        return "brain-mri" if modality == "mri" and brain else modality
    if words:
        return words
    return "mri" if channels == 1 and any(p.modality == "NIFTI" for p in pictures) else "other"


def _normalisation(modality: Modality, channels: int, pictures: list[Picture]) -> Normalisation:
    how = default_normalisation(modality, channels)
    if how.kind == "window" and all(s.pixels.dtype == np.uint8 for p in pictures for s in p.slices):
        return Normalisation(kind="window", window=(0.0, 255.0))  # windowed already, by whoever made the 8-bit copy
    return how


def _size(pictures: list[Picture]) -> tuple[int, int]:
    height, width = np.median([s.pixels.shape[:2] for p in pictures for s in p.slices], axis=0)
    scale = min(1.0, 256 / max(height, width))
    return _multiple(height * scale), _multiple(width * scale)


def _multiple(side: float) -> int:
    return int(min(256, max(32, 32 * round(side / 32))))


def _values(folder: Path, rows: tuple[Row, ...]) -> dict[int, str]:
    found: dict[int, str] = {}
    for row in _evenly([row for row in rows if row.mask], _MASKS):
        try:
            found |= mask_values(folder / str(row.mask))
        except OmniFedError:
            continue  # counted and named by `omnifed check`
        if len(found) > _LARGEST_LABEL + 2:
            raise OmniFedError(
                "OF226",
                "Masks must be label maps: few values, one a label.",
                seen=f"{folder / str(row.mask)}: {len(found)} values so far",
                remedy="Export masks as PNG, not JPEG, or write site.toml by hand.",
            )
    return found


def name_labels(found: dict[int, str]) -> tuple[dict[int, str], dict[int, int]]:
    """Labels and ``mask_values`` for the values that masks hold.

    Args:
        found: mask value to its name where the file states one (DICOM SEG), else ``""``.

    Returns:
        Label id to name, and mask value to label id (empty where they are equal).
    """
    values = sorted(value for value in found if value != 0)
    ids = [value for value in values if 0 < value <= _LARGEST_LABEL]
    if set(values) <= {*ids, IGNORE} and (ids or not values):
        # Small values are ids; one that no mask showed may still be there. 255 beside them means: no label.
        top = max(ids, default=1)
        labels = {0: "background"} | {i: found.get(i) or f"class-{i}" for i in range(1, top + 1)}
        return labels, {i: i for i in range(1, top + 1)} | {IGNORE: IGNORE} if IGNORE in values else {}
    labels = {0: "background"} | {i: found[value] or f"class-{i}" for i, value in enumerate(values, 1)}
    return labels, {value: i for i, value in enumerate(values, 1)}
