"""Identities of a simulation: a federation of its own, below the run folder, with the commands' own functions."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from omnifed.trust.authority import admit, found
from omnifed.trust.enrolment import enrol, join
from omnifed.trust.identity import CoordinatorIdentity, SiteIdentity

_NAME, _SERVER = "simulation", "127.0.0.1:8000"


def make_identities(run: Path, sites: Iterable[str]) -> CoordinatorIdentity:
    """Founds the federation of a run and lets its sites join; what is there is kept.

    Args:
        run: folder of the run; sites' identities lie in their state folders.
        sites: registered names.

    Returns:
        The coordinator's identity. Each site then holds a roster with all of them.
    """
    folder = run / "identity"
    if not (folder / "federation.json").is_file():
        found(folder, _NAME, _SERVER)
    coordinator, joined = CoordinatorIdentity.load(folder), []
    for site in sites:
        own = identity_folder(run, site)
        if not (own / "kit.json").is_file():
            join(own, admit(folder, enrol(own, site)))
        joined.append(SiteIdentity.load(own))
    for identity in joined:
        identity.accept(coordinator.signed_roster())
    return coordinator


def identity_of(run: Path, site: str) -> SiteIdentity | None:
    """The identity that :func:`make_identities` made for a site; None where there is none."""
    folder = identity_folder(run, site)
    return SiteIdentity.load(folder) if (folder / "kit.json").is_file() else None


def identity_folder(run: Path, site: str) -> Path:
    """Where a simulated site's identity lies."""
    return run / "sites" / site / "state" / "identity"
