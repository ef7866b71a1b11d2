"""The authority of a federation: it makes the coordinator's identity, and alone changes who belongs.

Its two private keys are needed here and nowhere else; they may lie on a disk that is away the rest of the time. It
keeps a copy of the last roster that it has signed, so that a coordinator's folder from a backup, or one that somebody
has tampered with, cannot make it forget a revocation.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from omnifed.config import parse
from omnifed.errors import OmniFedError
from omnifed.files import write_atomic
from omnifed.trust.admission import OVERLAP, admitted, ended
from omnifed.trust.authority_folder import ROSTER_TERM, aside, certify, opened, publish
from omnifed.trust.authority_keys import Ask, AuthorityKeys, nobody
from omnifed.trust.certificates import SKEW, make_authority
from omnifed.trust.identity import CoordinatorIdentity, Federation
from omnifed.trust.kit import KIT, Kit
from omnifed.trust.proposal import read_proposal
from omnifed.trust.request import open_request
from omnifed.trust.roster import ROSTER, Roster, Term
from omnifed.trust.signing import Signed, SigningKey

SIGN_TERM = timedelta(days=90)


def found(
    folder: Path, name: str, server: str, *, passphrase: str = "", now: datetime | None = None
) -> CoordinatorIdentity:
    """Makes a federation: the coordinator's folder with the authority inside.

    Args:
        folder: new, or empty; its ``authority`` may be moved to another disk afterwards.
        name: of the federation.
        server: HOST:PORT by which sites reach the coordinator.
        passphrase: encrypts the authority's keys; they lie in clear without one.
        now: for tests.

    Raises:
        OmniFedError: OF102 for a wrong name or address, OF809 if there is something in the folder.
    """
    now, folder = now or datetime.now(UTC), folder.absolute()
    root, sign = SigningKey.generate(), SigningKey.generate()
    about = parse(Federation, {"name": name, "server": server, "root": root.public}, "the new federation")
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise OmniFedError(
            "OF809",
            "A new identity is made in a folder of its own.",
            seen=f"{folder} exists",
            remedy="Name a new folder; never write over an identity: all sites would have to join again.",
        )
    with aside(folder) as part:
        _make(part, about, root, sign, passphrase, now)
    return CoordinatorIdentity.load(folder)


def _make(part: Path, about: Federation, root: SigningKey, sign: SigningKey, passphrase: str, now: datetime) -> None:
    place = part / "authority"
    place.mkdir(mode=0o700)
    ca_key, ca = make_authority(about.name, now)
    AuthorityKeys(root, ca_key).save(place, passphrase)
    write_atomic(part / "ca.pem", ca)
    sign.save(part / "sign.key")
    certify(part, about, ca_key, now)
    write_atomic(part / "federation.json", about.model_dump_json(indent=1).encode())
    coordinator = (Term(sign=sign.public, since=now - SKEW, until=now + SIGN_TERM),)
    roster = Roster(federation=about.name, version=1, issued=now, expires=now + ROSTER_TERM, coordinator=coordinator)
    publish(Signed.seal(ROSTER, roster, root), part, place)


def admit(
    folder: Path,
    request: Signed,
    *,
    authority: Path | None = None,
    passphrase: Ask = nobody,
    replace: bool = False,
    now: datetime | None = None,
) -> Signed:
    """Makes a site a member, renews its keys' term, or takes its new keys.

    Args:
        folder: of the coordinator.
        request: what the site has sent; whoever calls this has compared its fingerprint.
        authority: folder of the authority's keys, if it was moved.
        passphrase: asked for that of the authority's keys, if they are encrypted.
        replace: the site has lost its keys: the old ones end at once.
        now: for tests.

    Returns:
        The kit, for the site, with the policy that the coordinator's folder proposes, if there is one.

    Raises:
        OmniFedError: OF101, OF102 or OF821 if that policy is of no use, OF802 if the request was altered, OF806 without
            the authority's keys, OF807 if the name or the keys are taken, OF816 without the passphrase.
    """
    asked, now = open_request(request), now or datetime.now(UTC)
    proposal = read_proposal(folder, now.date())
    with opened(folder, authority, passphrase) as ours:
        site = admitted(ours.roster, asked, replace=replace, now=now)
        others = [member for member in ours.roster.members if member.site != asked.site]
        members = sorted([*others, site], key=lambda member: member.site)
        signed = ours.issue(now, members=tuple(members))
        kit = Kit(
            federation=ours.about.name,
            site=asked.site,
            server=ours.about.server,
            root=ours.about.root,
            ca=(folder / "ca.pem").read_text(),
            roster=signed,
            issued=now,
            expires=site.terms[-1].until,
            policy=proposal,
        )
        return Signed.seal(KIT, kit, ours.keys.root)


def revoke(
    folder: Path,
    site: str,
    *,
    authority: Path | None = None,
    passphrase: Ask = nobody,
    now: datetime | None = None,
) -> Roster:
    """Ends the membership of a site, from now on.

    Args:
        folder: of the coordinator.
        site: registered name.
        authority: folder of the authority's keys, if it was moved.
        passphrase: asked for that of the authority's keys, if they are encrypted.
        now: for tests.

    Raises:
        OmniFedError: OF806 without the authority's keys, OF809 if no site of that name was ever admitted, OF816 without
            the passphrase.
    """
    now = now or datetime.now(UTC)
    with opened(folder, authority, passphrase) as ours:
        if ours.roster.member(site) is None:
            names = ", ".join(member.site for member in ours.roster.members)
            raise OmniFedError(
                "OF809",
                "A site is revoked by the name with which it was admitted.",
                seen=f"{site}; in the roster: {names or 'nobody'}",
                remedy="See: omnifed-server roster.",
            )
        members = [
            member.model_copy(update={"revoked": member.revoked or now}) if member.site == site else member
            for member in ours.roster.members
        ]
        ours.issue(now, members=tuple(members))
        return ours.roster


def rotate(
    folder: Path,
    *,
    at_once: bool = False,
    authority: Path | None = None,
    passphrase: Ask = nobody,
    now: datetime | None = None,
) -> Roster:
    """Renews what ends by itself: server certificate, signing key of the coordinator, roster.

    A coordinator that runs signs its next message with the new key, and sends the new roster with it. Messages that
    were sent before are taken for :data:`OVERLAP`.

    Args:
        folder: of the coordinator.
        at_once: the old key was stolen: whoever has seen the new roster takes nothing more that it has signed.
        authority: folder of the authority's keys, if it was moved.
        passphrase: asked for that of the authority's keys, if they are encrypted.
        now: for tests.

    Raises:
        OmniFedError: OF806 without the authority's keys, OF816 without their passphrase.
    """
    now = now or datetime.now(UTC)
    with opened(folder, authority, passphrase) as ours:
        key = SigningKey.generate()
        certify(folder, ours.about, ours.keys.ca, now, suffix=".next")
        key.save(folder / "sign.key.next")
        # A clock that is behind must not keep a stolen key alive.
        end = now - SKEW if at_once else now + OVERLAP
        old = [ended(term, end) for term in ours.roster.coordinator]
        new = Term(sign=key.public, since=now - SKEW, until=now + SIGN_TERM)
        ours.issue(now, coordinator=(*old, new))
        # The roster names the new key: loading puts the files in place.
        CoordinatorIdentity.load(folder)
        return ours.roster


def change_passphrase(folder: Path, new: Ask, *, authority: Path | None = None, passphrase: Ask = nobody) -> None:
    """Encrypts the authority's keys with another passphrase. Copies that were made before keep theirs.

    Args:
        folder: of the coordinator.
        new: asked for the new one once the keys are open; "" leaves them in clear.
        authority: folder of the authority's keys, if it was moved.
        passphrase: asked for the one in use, if there is one.

    Raises:
        OmniFedError: OF806 without the authority's keys, OF816 without the passphrase in use.
    """
    with opened(folder, authority, passphrase) as ours:
        ours.keys.save(ours.folder, new())
