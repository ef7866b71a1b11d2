"""Cuts one real site by patient into hospitals that differ in size, in what they see, or in their scanner."""

from __future__ import annotations

import csv
import io
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from omnifed.data.case import read_case
from omnifed.data.prepare import content_key
from omnifed.data.propose import write_site_toml
from omnifed.data.site import IGNORE
from omnifed.data.site_folder import Site, load_site
from omnifed.errors import OmniFedError
from omnifed.files import write_atomic
from omnifed_sim.made_sites import make_site
from omnifed_sim.scanners import Scanner, copied, copy_row, scanner_of

Skew = Literal["none", "quantity", "label", "scanner"]
VERSION = 1


def split_site(folder: Path, k: int, out: Path, *, skew: Skew = "none", seed: int = 0) -> list[Path]:
    """Cuts the site in ``folder`` into ``k`` hospitals, each with its own train, val and test by the site's splits.

    A fixed split column is dropped: it was made for the whole. Images stay where they are (the new index names them by
    absolute paths), but with ``scanner``, which copies them as PNG and thereby loses their spacing.

    Args:
        folder: a site folder.
        k: number of hospitals.
        out: parent of the new folders ``<site>-1`` .. ``<site>-k``.
        skew: ``none`` deals patients evenly; ``quantity`` makes each hospital half as large as the one before;
            ``label`` sorts the patients by the share of the rarest label, then of the foreground; ``scanner`` deals
            evenly and gives each hospital a gain, contrast, blur, noise and colour cast of its own.
        seed: of the order of the patients and of the scanners.

    Returns:
        The hospitals' folders.

    Raises:
        OmniFedError: OF250 if a folder is in the way, OF251 for more hospitals than patients with masks, or what
            reading the site raises.
    """
    site = load_site(folder)
    patients = sorted({row.patient for row in site.rows if row.mask and row.patient})
    if not 1 <= k <= len(patients):
        raise OmniFedError(
            "OF251",
            "A site can be cut into at most as many hospitals as it has patients with masks.",
            seen=f"{k} hospitals, {len(patients)} patients with masks",
            remedy="Lower the number of hospitals, or choose a site with more patients.",
        )
    rng = np.random.default_rng(seed)
    order = [patients[i] for i in rng.permutation(len(patients))]
    if skew == "label":
        richness = {patient: _richness(site, patient) for patient in patients}
        rare = _rarest(richness)
        order.sort(key=lambda patient: (richness[patient][rare], richness[patient][1:].sum()), reverse=True)
    groups = [set(g) for g in _deal(order, _sizes(len(order), k, skew))]
    others = sorted({row.patient for row in site.rows} - set(patients))
    for group, more in zip(groups, _deal(others, _sizes(len(others), k, skew)), strict=True):
        group.update(more)  # patients without any mask are dealt in the same ratio
    stamp = {"version": VERSION, "source": content_key(site), "k": k, "skew": skew, "seed": seed}
    return [
        make_site(
            out / f"{site.config.name}-{number}",
            stamp,
            partial(
                _write, site=site, patients=group, scanner=scanner_of(number, k, seed) if skew == "scanner" else None
            ),
        )
        for number, group in enumerate(groups, 1)
    ]


def _sizes(patients: int, k: int, skew: Skew) -> list[int]:
    """Patients a hospital, largest first; with ``quantity`` in the ratio 1 : 1/2 : 1/4 ..., each at least one.

    At least three where there are enough, so that the smallest can still hold out a patient for val and test.
    """
    floor = min(3, patients // k) if skew == "quantity" else patients // k
    weights = 0.5 ** np.arange(k) if skew == "quantity" else np.ones(k)
    share = np.cumsum(weights) / weights.sum() * (patients - floor * k)
    return [floor + int(n) for n in np.diff(np.rint(share), prepend=0)]


def _deal(order: list[str], sizes: list[int]) -> list[list[str]]:
    ends = np.cumsum(sizes)
    return [order[end - size : end] for end, size in zip(ends, sizes, strict=True)]


def _richness(site: Site, patient: str) -> NDArray[np.float64]:
    """Share of each label id in the patient's labelled pixels, shape (classes,)."""
    counts = np.zeros(len(site.config.labels))
    for row in site.rows:
        if row.patient == patient and row.mask:
            for case in read_case(site, row)[0]:
                if case.mask is not None:
                    counts += np.bincount(case.mask[case.mask != IGNORE], minlength=len(counts))
    return counts / max(counts.sum(), 1)


def _rarest(richness: dict[str, NDArray[np.float64]]) -> int:
    total = np.sum(list(richness.values()), axis=0)
    total[0] = np.inf
    return int(np.argmin(np.where(total > 0, total, np.inf)))


def _write(folder: Path, site: Site, patients: set[str], scanner: Scanner | None) -> None:
    rows = [row for row in site.rows if row.patient in patients]
    config = site.config.model_copy(update={"name": folder.name, "index": "index.csv"})
    if scanner:
        rows = [made for number, row in enumerate(rows) for made in copy_row(folder, site, row, number, scanner)]
        config = copied(config)
    index = io.StringIO()
    table = csv.writer(index, lineterminator="\n")
    table.writerow(["image", "mask", "patient"])
    for row in rows:
        inside = (folder / row.image).exists()  # a copy; all else stays where it is
        place = (lambda entry: entry) if inside else (lambda entry: str(site.path(entry).resolve()))
        table.writerow([place(row.image), place(row.mask) if row.mask else "", row.patient])
    write_atomic(folder / config.index, index.getvalue().encode())
    write_site_toml(config, folder / "site.toml")
