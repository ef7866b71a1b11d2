"""Who belongs to a federation: one signed document, the same for all, that only ever grows in version."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

from pydantic import AwareDatetime, Field

from omnifed.config import Frozen
from omnifed.errors import OmniFedError
from omnifed.trust.signing import Signed

ROSTER = "roster"
"""Context of its signature."""
Standing = Literal["member", "revoked", "expired", "unknown"]
HEX_KEY = r"^[0-9a-f]{64}$"
SITE_NAME = r"^[a-z0-9][a-z0-9_-]{0,62}$"
FEDERATION_NAME = r"^[A-Za-z0-9_-]{1,50}$"


class Term(Frozen):
    """A signing key and the time in which it is valid.

    Attributes:
        sign: public Ed25519 key, hex.
        since, until: with time zone.
    """

    sign: str = Field(pattern=HEX_KEY)
    since: AwareDatetime
    until: AwareDatetime

    def valid(self, now: datetime) -> bool:
        """Whether ``now`` lies within."""
        return self.since <= now < self.until


class MemberTerm(Term):
    """A site's keys.

    Attributes:
        node: public key (EC P-384, OpenSSH text) with which the site's node introduces itself to Flower.
    """

    node: str = Field(min_length=1, max_length=400)


class Member(Frozen):
    """One site. While it rotates its keys, the old and the new ones are valid.

    Attributes:
        site: registered name.
        terms: keys, newest last.
        revoked: since when it is no member any more.
    """

    site: str = Field(pattern=SITE_NAME)
    terms: tuple[MemberTerm, ...] = Field(min_length=1)
    revoked: AwareDatetime | None = None


class Roster(Frozen):
    """The members of a federation, signed by its authority.

    Attributes:
        federation: name.
        version: one more than the roster before; an older one is refused by who has seen a newer one.
        issued: when it was signed.
        expires: after which it is refused.
        coordinator: keys with which the coordinator signs tasks, newest last.
        members: by name.
    """

    federation: str = Field(pattern=FEDERATION_NAME)
    version: int = Field(ge=1)
    issued: AwareDatetime
    expires: AwareDatetime
    coordinator: tuple[Term, ...] = Field(min_length=1)
    members: tuple[Member, ...] = ()

    def member(self, site: str) -> Member | None:
        """The entry of a site, whatever its standing."""
        return next((member for member in self.members if member.site == site), None)

    def standing(self, site: str, now: datetime | None = None) -> Standing:
        """What a site is to the federation now."""
        now = now or datetime.now(UTC)
        member = self.member(site)
        if member is None:
            return "unknown"
        if member.revoked is not None and member.revoked <= now:
            return "revoked"
        return "member" if any(term.valid(now) for term in member.terms) else "expired"

    def keys_of(self, site: str, now: datetime | None = None) -> tuple[str, ...]:
        """Signing keys (hex) of a site that are valid now; none unless it is a member."""
        now = now or datetime.now(UTC)
        member = self.member(site)
        if member is None or self.standing(site, now) != "member":
            return ()
        return tuple(term.sign for term in member.terms if term.valid(now))

    def coordinator_keys(self, now: datetime | None = None) -> tuple[str, ...]:
        """Signing keys (hex) of the coordinator that are valid now."""
        now = now or datetime.now(UTC)
        return tuple(term.sign for term in self.coordinator if term.valid(now))


def open_roster(signed: Signed, root: str, *, newer_than: int = 0, now: datetime | None = None) -> Roster:
    """Verifies a roster.

    Args:
        signed: as it lies in a file or came with a task.
        root: public key of the federation's authority, hex.
        newer_than: version that the reader has seen.
        now: for tests.

    Raises:
        OmniFedError: OF802 if the authority has not signed it, OF803 if it is older than one seen before or expired.
    """
    roster = signed.open(ROSTER, Roster, (root,), "the roster")
    now = now or datetime.now(UTC)
    if roster.version < newer_than or now >= roster.expires:
        raise outdated(roster, newer_than)
    return roster


def outdated(roster: Roster, seen: int) -> OmniFedError:
    """The error of a roster that is not the current one."""
    return OmniFedError(
        "OF803",
        "A roster is the newest one that was seen, and has not expired.",
        seen=f"version {roster.version}, expires {roster.expires:%Y-%m-%d}; seen before: version {seen}",
        remedy="Ask the coordinator for the current roster; it renews it with: omnifed-server rotate.",
    )
