"""What ends soon, said two weeks before, each with the command that renews it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from omnifed.trust.certificates import ends, no_certificate
from omnifed.trust.identity import CoordinatorIdentity, SiteIdentity

NOTICE = timedelta(days=14)


def warnings_of_coordinator(identity: CoordinatorIdentity, now: datetime | None = None) -> list[str]:
    """What ends within :data:`NOTICE`, or has ended: of the coordinator itself, then its sites' keys.

    Args:
        identity: of the coordinator.
        now: for tests.

    Returns:
        One line each; none if all is well.

    Raises:
        OmniFedError: OF802 if the roster or a certificate is damaged.
    """
    now = now or datetime.now(UTC)
    roster = identity.held()
    renew = f"omnifed-server rotate --identity {identity.folder}"
    signing = [term.until for term in roster.coordinator if term.sign == identity.key.public]
    lines = [
        _line("the server certificate", _ends(identity.folder / "server.pem"), renew, now),
        _line("the coordinator's signing key", signing[0] if signing else roster.issued, renew, now),
        _line("the roster", roster.expires, renew, now),
        _line("the authority's certificate", _ends(identity.folder / "ca.pem"), "found anew: omnifed-server init", now),
    ]
    for member in roster.members:
        if member.revoked is None:
            renew = f"at the site: omnifed-client rotate --site {member.site}"
            lines.append(_line(f"the term of {member.site}'s keys", member.terms[-1].until, renew, now))
    return [line for line in lines if line]


def warnings_of_site(identity: SiteIdentity, now: datetime | None = None) -> list[str]:
    """What ends within :data:`NOTICE` at a site, or has ended.

    Args:
        identity: of the site.
        now: for tests.

    Returns:
        One line each; none if all is well.

    Raises:
        OmniFedError: OF802 if the roster or the certificate is damaged.
    """
    now = now or datetime.now(UTC)
    roster = identity.held()
    member = roster.member(identity.site)
    terms = [term.until for term in member.terms if term.sign == identity.key.public] if member else []
    ask = "ask the coordinator for: omnifed-server"
    lines = [
        _line("the term of the site's keys", terms[0] if terms else identity.kit.expires, _renewal(identity), now),
        _line("the roster", roster.expires, f"{ask} rotate; a new one comes with the next task", now),
        _line("the authority's certificate", _ends(identity.ca), f"{ask} init, a new federation", now),
    ]
    return [line for line in lines if line]


def _renewal(identity: SiteIdentity) -> str:
    return f"omnifed-client rotate --site {identity.site} --state {identity.folder.parent}"


def _line(what: str, until: datetime, renew: str, now: datetime) -> str:
    left = until - now
    if left > NOTICE:
        return ""
    when = f"ends in {left.days} days, on" if left > timedelta(0) else "ended on"
    return f"{what} {when} {until:%Y-%m-%d}; {renew}"


def _ends(file: Path) -> datetime:
    try:
        return ends(file.read_bytes())
    except (OSError, ValueError) as error:
        raise no_certificate(file, error) from None
