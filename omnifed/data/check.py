"""Reads a whole site once and says what is there, what is missing and what it looks like."""

from __future__ import annotations

import io
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from omnifed.config import Frozen
from omnifed.data.case import Case, has_label, read_case
from omnifed.data.normalise import normalise, resize_image, resize_mask
from omnifed.data.overlay import SIDE, contact_sheet, overlay, to_uint8
from omnifed.data.readers.registry import reading_run
from omnifed.data.site import IGNORE, SiteConfig
from omnifed.data.site_folder import Site
from omnifed.data.splits import plan
from omnifed.files import write_atomic
from omnifed.progress import Progress

TILES = 24
"""Cases on a contact sheet, evenly over the index."""


class LabelCount(Frozen):
    """Support of a label: slices that show it, and its share of all labelled pixels."""

    label: int
    name: str
    slices: int
    share: float


class SkippedCase(Frozen):
    """A row or slice that was skipped. Names a file: stays at the site."""

    name: str
    code: str
    reason: str


class CheckReport(Frozen):
    """What ``omnifed check`` found. It names files: it stays at the site.

    Attributes:
        site, modality: of the configuration.
        rows: lines of the index.
        slices: readable 2D images, of them ``labelled`` with a mask.
        patients: different ones among the readable slices.
        sizes: "WIDTHxHEIGHT" to slices.
        spacing_known: slices with a pixel spacing in mm.
        labels: support of each label.
        splits: slices a split; ``left_out`` are neither (gaps between blocks, unlabelled slices of held-out patients).
        skipped: every row or slice that could not be used, with the reason.
        skipped_rows: index rows with something skipped, and their share of all rows against ``limit``.
        warnings: what a reader of scores should know.
        ok: something is readable and the share is within the limit.
    """

    site: str
    modality: str
    rows: int
    slices: int
    labelled: int
    patients: int
    sizes: dict[str, int]
    spacing_known: int
    labels: tuple[LabelCount, ...]
    splits: dict[str, int]
    skipped: tuple[SkippedCase, ...]
    skipped_rows: int
    share: float
    limit: float
    warnings: tuple[str, ...]
    ok: bool


@dataclass(frozen=True)
class _Seen:
    """What splitting needs of a slice."""

    name: str
    patient: str
    split: str | None
    has_mask: bool


def check_site(site: Site, progress: Progress | None = None, *, sheet: Path | None = None) -> CheckReport:
    """Reads every image and mask of a site once.

    Args:
        site: from :func:`omnifed.data.site_folder.load_site`.
        progress: called after each index row.
        sheet: PNG to write with up to 24 cases and their masks, mode 0600: it shows patients' images.

    Raises:
        OmniFedError: OF103 if the sheet cannot be written, OF207 too few patients for the folds.
    """
    labels = site.config.labels
    seen: list[_Seen] = []
    skipped: list[SkippedCase] = []
    sizes: Counter[str] = Counter()
    pixels = np.zeros(IGNORE + 1, np.int64)
    shown = np.zeros(IGNORE + 1, np.int64)
    spacing = bad_rows = 0
    tiles: list[tuple[str, np.ndarray]] = []
    wanted = {i * len(site.rows) // TILES for i in range(TILES)}
    with reading_run():
        for done, row in enumerate(site.rows):
            cases, failed = read_case(site, row)
            skipped += [SkippedCase(name=s.name, code=s.code, reason=s.reason) for s in failed]
            bad_rows += bool(failed)
            for case in cases:
                height, width = case.pixels.shape[:2]
                sizes[f"{width}x{height}"] += 1
                spacing += case.spacing[0] == case.spacing[0]
                seen.append(_Seen(case.name, row.patient, row.split, has_label(case.mask)))
                if case.mask is not None:
                    count = np.bincount(case.mask.ravel(), minlength=IGNORE + 1)
                    pixels += count
                    shown += count > 0
            if sheet and cases and done in wanted:
                tiles.append(_tile(cases, site.config))
            if progress:
                progress(done + 1, len(site.rows), "check")
    splits, warnings = plan(seen, site.config.splits) if seen else ([], [])
    warnings += [
        f"label {label} ({name}) occurs in no mask"
        for label, name in labels.items()
        if pixels.any() and not pixels[label]
    ]
    if sheet and tiles:
        _write_sheet(tiles, labels, sheet)
    total = max(1, int(pixels[: len(labels)].sum()))
    share = bad_rows / len(site.rows)
    return CheckReport(
        site=site.config.name,
        modality=site.config.modality,
        rows=len(site.rows),
        slices=len(seen),
        labelled=sum(s.has_mask for s in seen),
        patients=len({s.patient for s in seen}),
        sizes=dict(sizes.most_common()),
        spacing_known=int(spacing),
        labels=tuple(
            LabelCount(label=label, name=name, slices=int(shown[label]), share=float(pixels[label] / total))
            for label, name in labels.items()
        ),
        splits={split or "left_out": splits.count(split) for split in ("train", "val", "test", "")},
        skipped=tuple(skipped),
        skipped_rows=bad_rows,
        share=share,
        limit=site.config.unreadable_limit,
        warnings=tuple(warnings),
        ok=bool(seen) and share <= site.config.unreadable_limit,
    )


def _tile(cases: list[Case], config: SiteConfig) -> tuple[str, np.ndarray]:
    """The slice that shows most foreground, else the middle one, as the network will see it, at the tile's size."""
    case = max(cases, key=lambda c: 0 if c.mask is None else int(((c.mask != 0) & (c.mask != IGNORE)).sum()))
    if case.mask is None or not case.mask.any():
        case = cases[len(cases) // 2]
    height, width = case.pixels.shape[:2]
    size = (max(1, round(height * SIDE / max(height, width))), max(1, round(width * SIDE / max(height, width))))
    image = normalise([case.pixels], config.normalisation, config.channels)[0]
    mask = np.zeros((height, width), np.uint8) if case.mask is None else case.mask
    return case.name, overlay(to_uint8(resize_image(image, size)), resize_mask(mask, size))


def _write_sheet(tiles: list[tuple[str, np.ndarray]], labels: dict[int, str], path: Path) -> None:
    buffer = io.BytesIO()
    contact_sheet([tile for _, tile in tiles], [name for name, _ in tiles], labels).save(buffer, "PNG")
    write_atomic(path, buffer.getvalue(), mode=0o600)
