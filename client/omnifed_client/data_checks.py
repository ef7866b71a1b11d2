"""What can be wrong with a site's data, seen within seconds: the contract, the files it names, a sample read whole."""

from __future__ import annotations

import time
from pathlib import Path

from omnifed.data.case import read_case
from omnifed.data.site import SITE_TOML
from omnifed.data.site_folder import Site, load_site
from omnifed.errors import OmniFedError
from omnifed_client.checks import Finding
from omnifed_client.config import ClientConfig

SAMPLE, SAMPLE_LIMIT_S = 8, 5.0
"""Rows, evenly over the index, that are read whole, as long as the time lasts; `omnifed check` reads them all."""

STATS = 5000
"""Rows whose files are looked for at most: on a network drive each costs a round trip."""
_QUOTABLE = ("OF101", "OF102", "OF201", "OF202", "OF203")
"""Errors whose `seen` quotes the configuration; that of others may quote patients' keys and images' names."""


def check_data(config: ClientConfig) -> list[Finding]:
    """The data folder: its contract, the registered name, the files that the index names, a sample of their contents.

    Findings carry counts and file names of the configuration, never a patient's key or an image's name.
    """
    if not config.data.is_dir():
        remedy = "Mount the disk, or correct `data` in the site's file or --data."
        return [Finding("data", "fail", f"{config.data} is no folder here", remedy, "OF130")]
    try:
        site = load_site(config.data)
    except OmniFedError as error:
        quoted = f" {error.seen}" if error.code in _QUOTABLE else ""
        return [Finding("data", "fail", error.rule + quoted, error.remedy, error.code)]
    return [_files(site), _name(config, site)]


def _name(config: ClientConfig, site: Site) -> Finding:
    name = site.config.name
    if name != config.site:
        remedy = (
            f'Write `name = "{config.site}"` into {config.data / SITE_TOML}, or start the client with --site {name}.'
        )
        return Finding("site name", "fail", f"started as {config.site}, the data says {name}", remedy, "OF133")
    return Finding("site name", "ok", f"{name}, as in {SITE_TOML}")


def _files(site: Site) -> Finding:
    rows = site.rows
    patients, masks = len({row.patient for row in rows}), sum(row.mask is not None for row in rows)
    looked = rows[:: -(-len(rows) // STATS)]
    absent = sum(not all(_there(site.path(e)) for e in (row.image, row.mask) if e) for row in looked)
    read, unreadable = _sample(site)
    seen = (
        f"{len(rows)} rows of {patients} patients, {masks} with a mask; {absent} of {len(looked)} with a file missing, "
    )
    seen += f"{unreadable} of {read} read whole unusable"
    look = f"Run: omnifed check {site.root} - it names every row and the reason."
    if absent > site.config.unreadable_limit * len(looked) or unreadable == read:
        return Finding("data", "fail", seen, look, "OF210")
    if not masks:
        remedy = "Name masks in the index: without any the site can only learn from a teacher, and test nothing."
        return Finding("data", "warn", seen, remedy, "OF402")
    if absent or unreadable:
        return Finding("data", "warn", f"{seen}; they will be skipped", look, "OF210")
    if not (site.root / SITE_TOML).is_file():
        remedy = f"Run: omnifed init-site {site.root} - and review what it proposes."
        return Finding("data", "warn", f"{seen}; no {SITE_TOML}, a proposal is used", remedy, "OF101")
    return Finding("data", "ok", seen)


def _there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return False


def _sample(site: Site) -> tuple[int, int]:
    """Rows that were read whole, and how many of them were unusable."""
    chosen = sorted({i * len(site.rows) // SAMPLE for i in range(SAMPLE)})
    end, read, unusable = time.monotonic() + SAMPLE_LIMIT_S, 0, 0
    for i in chosen:
        cases, _ = read_case(site, site.rows[i])
        read, unusable = read + 1, unusable + (not cases)
        if time.monotonic() > end:
            break
    return read, unusable
