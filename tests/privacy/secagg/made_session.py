"""A private round without network or disk: real keys, real signatures, small vectors."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache

import numpy as np

from omnifed.privacy.secagg.collect import (
    check_receipt,
    check_shared,
    inbox_of,
    survivors_of,
    unmask,
)
from omnifed.privacy.secagg.keys import Parties, Session
from omnifed.privacy.secagg.records import Held, Revealed, Shared
from omnifed.privacy.secagg.session import begin, mask, reveal, share
from omnifed.trust.roster import Member, MemberTerm, Roster, Term
from omnifed.trust.signing import Signed, SigningKey

NOW = datetime.now(UTC)
SESSION = Session(federation="test", campaign="c", arm="fedavg", round=0, attempt=0)
COORDINATOR = SigningKey.generate()


@cache
def key_of(site: str) -> SigningKey:
    return SigningKey.generate()


def roster_of(sites: Collection[str], **revoked: bool) -> Roster:
    since, until = NOW - timedelta(days=1), NOW + timedelta(days=1)
    members = tuple(
        Member(
            site=site,
            terms=(MemberTerm(sign=key_of(site).public, since=since, until=until, node="ssh"),),
            revoked=since if revoked.get(site) else None,
        )
        for site in sites
    )
    term = Term(sign=COORDINATOR.public, since=since, until=until)
    return Roster(
        federation="test", version=1, issued=since, expires=until, coordinator=(term,), members=members
    )  # fmt: skip


@dataclass
class Round:
    """All parties of one session; ``held`` changes as they answer."""

    names: Sequence[str]
    threshold: int
    session: Session = SESSION
    held: dict[str, Held] = field(default_factory=dict)
    shared: dict[str, Shared] = field(default_factory=dict)
    masked: dict[str, np.ndarray] = field(default_factory=dict)
    receipts: dict[str, Signed] = field(default_factory=dict)
    revealed: dict[str, Revealed] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.roster = roster_of(self.names)
        for site in self.names:
            self.held[site] = begin(self.session, site, self.threshold, self.names, key_of(site))

    def adverts(self, sites: Collection[str] | None = None) -> tuple[Signed, ...]:
        return tuple(self.held[site].advert for site in sites or self.names)

    def open(self, sites: Collection[str] | None = None) -> Parties:
        return Parties.open(self.adverts(sites), self.session, self.roster, self.names)

    def share(self, site: str, keys: Sequence[Signed] | None = None) -> Shared:
        self.held[site], self.shared[site] = share(self.held[site], keys or self.adverts(), self.roster)
        return self.shared[site]

    def mask(self, site: str, vector: np.ndarray, inbox: Mapping[str, str] | None = None) -> np.ndarray:
        inbox = inbox_of(site, self.shared) if inbox is None else inbox
        self.held[site], self.masked[site], self.receipts[site] = mask(self.held[site], inbox, vector, key_of(site))
        return self.masked[site]

    def survivors(self, sites: Collection[str], parties: Parties) -> tuple[Signed, list[Signed]]:
        return survivors_of(parties, sites, COORDINATOR), [self.receipts[site] for site in sorted(sites)]

    def reveal(self, site: str, survivors: Signed, receipts: Sequence[Signed]) -> Revealed:
        self.held[site], self.revealed[site] = reveal(self.held[site], survivors, receipts, self.roster)
        return self.revealed[site]

    def until_masked(self, vectors: Mapping[str, np.ndarray]) -> Parties:
        parties = self.open()
        for site in self.names:
            check_shared(parties, site, self.share(site))
        for site in self.names:
            self.mask(site, vectors[site])
            check_receipt(parties, site, self.shared.keys(), self.receipts[site])
        return parties

    def total(self, parties: Parties, stay: Collection[str], size: int) -> np.ndarray:
        """The sum without masks."""
        total = np.zeros(size, np.uint32)
        for site in stay:
            total += self.masked[site]
        unmask(total, parties, self.threshold, self.shared, stay, self.revealed)
        return total


def vectors_of(names: Sequence[str], size: int = 5, seed: int = 0) -> dict[str, np.ndarray]:
    draw = np.random.default_rng([seed, len(names)])
    return {site: draw.integers(0, 2**32, size, dtype=np.uint32) for site in names}
