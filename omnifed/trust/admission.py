"""Which keys a site has after its request: the rules of admission, apart from keys and disks."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TypeVar

from omnifed.errors import OmniFedError
from omnifed.trust.certificates import SKEW
from omnifed.trust.request import Request
from omnifed.trust.roster import Member, MemberTerm, Roster, Term
from omnifed.trust.signing import fingerprint

SITE_TERM = timedelta(days=365)
OVERLAP = timedelta(days=7)
"""Old keys stay valid that long when new ones take their place."""
T = TypeVar("T", bound=Term)


def admitted(roster: Roster, asked: Request, *, replace: bool, now: datetime) -> Member:
    """The entry of a site after its request.

    A new name gets the keys of the request. A member keeps its keys for another term, or takes new ones for which the
    newest of the old ones vouches; both are valid for :data:`OVERLAP`. Keys that were replaced or revoked never return.

    Args:
        roster: before.
        asked: the request.
        replace: the site has lost its keys, or was revoked: the old ones end at once, and nobody needs to vouch.
        now: start of a new term, less :data:`~omnifed.trust.certificates.SKEW`.

    Raises:
        OmniFedError: OF807 if the name or the keys are taken.
    """
    for other in roster.members:
        if other.site != asked.site and _had(other, asked):
            raise _taken(f"the keys are {other.site}'s", "Each site makes its own keys: omnifed-client enrol.")
    new = MemberTerm(sign=asked.sign, node=asked.node, since=now - SKEW, until=now + SITE_TERM)
    member = roster.member(asked.site)
    terms = _terms(member, asked, new, replace, now) if member else (new,)
    return Member(site=asked.site, terms=terms)


def _terms(member: Member, asked: Request, new: MemberTerm, replace: bool, now: datetime) -> tuple[MemberTerm, ...]:
    newest = member.terms[-1]
    same = (newest.sign, newest.node) == (asked.sign, asked.node)
    if same and member.revoked is None:
        return (*member.terms[:-1], newest.model_copy(update={"until": new.until}))
    if _had(member, asked):
        raise _taken(f"{asked.site} had these keys before, and they were replaced or revoked", "Make new keys there.")
    if replace:
        return (*(ended(term, member.revoked or now) for term in member.terms), new)
    if member.revoked is not None:
        raise _taken(f"{asked.site} was revoked", "If it is to come back, admit its new keys with --replace.")
    if asked.previous == newest.sign and newest.valid(now) and asked.proven:
        return (*(ended(term, now + OVERLAP) for term in member.terms), new)
    raise _taken(
        f"{asked.site} is a member with the key {fingerprint(newest.sign)}, the request has other keys",
        "At the site: omnifed-client rotate. If it has lost its keys, ask by telephone, then admit with --replace.",
    )


def ended(term: T, when: datetime) -> T:
    """The term, which ends at ``when`` at the latest."""
    return term.model_copy(update={"until": min(term.until, when)})


def _had(member: Member, asked: Request) -> bool:
    return any(asked.sign == term.sign or asked.node == term.node for term in member.terms)


def _taken(seen: str, remedy: str) -> OmniFedError:
    return OmniFedError(
        "OF807", "A site keeps its keys, and new ones are vouched for by the old ones.", seen=seen, remedy=remedy
    )
