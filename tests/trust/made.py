"""Whole federations of identities in a folder, made with the real functions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from omnifed.trust.authority import admit, found, revoke
from omnifed.trust.enrolment import enrol, join
from omnifed.trust.identity import CoordinatorIdentity, SiteIdentity
from omnifed.trust.roster import Roster


@dataclass
class Made:
    """A coordinator (FOLDER/coordinator) and its sites (FOLDER/states/SITE/identity)."""

    folder: Path
    coordinator: CoordinatorIdentity
    sites: dict[str, SiteIdentity] = field(default_factory=dict)

    def state(self, site: str) -> Path:
        """State folder of a site's client."""
        return self.folder / "states" / site

    def admit(self, site: str, now: datetime | None = None) -> SiteIdentity:
        """Enrols, admits and joins one more site."""
        folder = self.state(site) / "identity"
        kit = admit(self.coordinator.folder, enrol(folder, site, now=now), now=now)
        self.sites[site] = join(folder, kit, now=now)
        return self.sites[site]

    def revoke(self, site: str, now: datetime | None = None) -> Roster:
        """Revokes a site; sites learn it from the roster that comes with a task."""
        return revoke(self.coordinator.folder, site, now=now)

    def spread(self) -> None:
        """Hands the current roster to all sites."""
        for site in self.sites.values():
            site.accept(self.coordinator.signed_roster())


def federation_of(
    folder: Path, sites: Iterable[str], *, server: str = "127.0.0.1:8000", now: datetime | None = None
) -> Made:
    """A federation whose sites have all joined and hold the current roster."""
    made = Made(folder, found(folder / "coordinator", "test", server, now=now))
    for site in sites:
        made.admit(site, now)
    if now is None:
        made.spread()
    return made
