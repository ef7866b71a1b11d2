"""Decodes a site once into memory maps that training and evaluation read; reuses them while nothing changes."""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from omnifed.config import parse
from omnifed.data.case import Skipped, has_label, read_case
from omnifed.data.index import Row
from omnifed.data.normalise import normalise, resize_image, resize_mask
from omnifed.data.prepared import Prepared
from omnifed.data.readers.registry import reading_run
from omnifed.data.site import IGNORE, SiteConfig
from omnifed.data.site_folder import Site
from omnifed.data.splits import plan
from omnifed.data.spool import Entry, Spool, label_counts, load_split
from omnifed.errors import OmniFedError
from omnifed.files import locked, not_written, write_atomic, write_json
from omnifed.progress import Progress

PREPROCESSING = "1"
"""Version of everything between file and array; part of every key. Raise it when prepared pixels change."""


@dataclass(frozen=True)
class SiteData:
    """A prepared site.

    Attributes:
        config: as used, with the image size of this preparation.
        train, val, test: the splits; images without a mask are in ``train``.
        skipped: what could not be read, and why.
        warnings: what a reader of the scores should know.
    """

    config: SiteConfig
    train: Prepared
    val: Prepared
    test: Prepared
    skipped: tuple[Skipped, ...]
    warnings: tuple[str, ...]

    def need(self, split: str) -> Prepared:
        """The named split.

        Raises:
            OmniFedError: OF208 if nothing is in it.
        """
        data: Prepared = getattr(self, split)
        if len(data) == 0:
            raise OmniFedError(
                "OF208",
                "A site must have images with masks in the split that is asked for.",
                seen=f"{split} of {self.config.name} is empty",
                remedy="Add patients with masks (three at least), or name the splits in the index's split column.",
            )
        return data


def prepare(
    site: Site, out: Path, *, image_size: tuple[int, int] | None = None, progress: Progress | None = None
) -> SiteData:
    """Decodes, normalises, resizes and splits a site, or finds that done.

    A case is normalised at its native resolution (a volume as a whole) and then resized. Files are written under
    ``out/<content key>``, mode 0600, and become visible only when complete: an interrupted call leaves nothing half.

    Args:
        site: from :func:`omnifed.data.site_folder.load_site`.
        out: folder for derived data at the site; made with mode 0700.
        image_size: overrides the configuration's, multiples of 32.
        progress: called after each index row.

    Raises:
        OmniFedError: OF102 for a wrong image size, OF207 too few patients for the folds, OF225 if no image is
            readable.
    """
    config = site.config
    if image_size is not None:
        config = parse(SiteConfig, {**config.model_dump(), "image_size": image_size}, "image_size")
        site = Site(config, site.root, site.rows)
    out.mkdir(parents=True, exist_ok=True, mode=0o700)
    # One process prepares at a time, so that what an interrupted one left can be removed safely.
    with locked(out / ".lock"):
        salt = _salt(out)
        target = out / content_key(site)
        if not (target / "meta.json").is_file():
            _build(site, target, salt, progress)
    return _load(config, target)


def content_key(site: Site) -> str:
    """sha256 (hex, 32 digits) over configuration, index and the size and time of every file it names."""
    digest = hashlib.sha256(f"{PREPROCESSING}\n{site.config.model_dump_json()}\n".encode())
    for row in site.rows:
        digest.update(json.dumps(asdict(row)).encode())
        for entry in (row.image, row.mask):
            if entry:
                digest.update("".join(_stamp(site.path(entry))).encode())
    return digest.hexdigest()[:32]


def _stamp(path: Path) -> Iterator[str]:
    try:
        for file in sorted(path.iterdir()) if path.is_dir() else [path]:
            stat = file.stat()
            yield f"{file.name}:{stat.st_size}:{stat.st_mtime_ns};"
    except OSError:
        yield "absent;"


def _salt(out: Path) -> bytes:
    path = out / ".salt"
    if not path.is_file():
        write_atomic(path, secrets.token_bytes(16), mode=0o600)
    return path.read_bytes()


def _build(site: Site, target: Path, salt: bytes, progress: Progress | None) -> None:
    config = site.config
    part = target.with_name(f".{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(mode=0o700)
        spool = Spool(part, config.channels, config.image_size)
        skipped: list[Skipped] = []
        with reading_run():
            for done, row in enumerate(site.rows, 1):
                skipped += _add_row(site, row, spool)
                if progress:
                    progress(done, len(site.rows), "prepare")
        if not spool.entries:
            raise OmniFedError(
                "OF225",
                "A site must have at least one readable image.",
                seen=f"{len(skipped)} skipped, the first: {skipped[0].reason}" if skipped else "nothing in the volumes",
                remedy="Run `omnifed check DIR`: it names every file and the reason.",
            )
        splits, warnings = plan(spool.entries, config.splits)
        spool.write(splits, salt)
        counts = label_counts(load_split(part, "train", config.spec, np.empty(0)).masks, len(config.labels))
        if counts.any():
            absent = [f"{label} ({config.labels[label]})" for label in config.labels if not counts[label]]
            warnings += [f"label {text} occurs in no training mask: the loss leaves it out" for text in absent]
        else:
            warnings.append("no training mask at all: this site trains through its teacher's terms alone")
        present = (counts > 0) | (not counts.any())
        head = {"present": present.tolist(), "skipped": [asdict(s) for s in skipped], "warnings": warnings}
        write_json(part / "meta.json", head, mode=0o600)
        part.rename(target)
    except OSError as error:
        raise not_written(target, error) from None
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _add_row(site: Site, row: Row, spool: Spool) -> list[Skipped]:
    config = site.config
    cases, skipped = read_case(site, row)
    images = normalise([case.pixels for case in cases], config.normalisation, config.channels) if cases else []
    for case, image in zip(cases, images, strict=True):
        small = resize_image(image, config.image_size).astype(np.float16)
        mask = np.full(config.image_size, IGNORE, np.uint8)
        if case.mask is not None:
            mask = resize_mask(case.mask, config.image_size)
        key = hashlib.sha256(f"{PREPROCESSING}:{small.shape}:".encode() + small.tobytes()).hexdigest()
        native = case.pixels.shape[:2]
        spacing = tuple(mm * n / m for mm, n, m in zip(case.spacing, native, config.image_size, strict=True))
        entry = Entry(case.name, row.patient, row.split, has_label(mask), (spacing[0], spacing[1]), key)
        spool.add(small, mask, entry)
    return skipped


def _load(config: SiteConfig, folder: Path) -> SiteData:
    head = json.loads((folder / "meta.json").read_text())
    present = np.array(head["present"], bool)
    train, val, test = (load_split(folder, split, config.spec, present) for split in ("train", "val", "test"))
    skipped = tuple(Skipped(**entry) for entry in head["skipped"])
    return SiteData(config, train, val, test, skipped, tuple(head["warnings"]))
