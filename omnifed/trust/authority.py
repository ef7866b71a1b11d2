"""The authority of a federation: it makes the coordinator's identity, and alone changes who belongs.

Its two private keys are needed here and nowhere else; they may lie on a disk that is away the rest of the time. It
keeps a copy of the last roster that it has signed, so that a coordinator's folder from a backup, or one that somebody
has tampered with, cannot make it forget a revocation.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from omnifed.config import parse
from omnifed.errors import OmniFedError
from omnifed.files import not_written, write_atomic
from omnifed.trust.admission import OVERLAP, admitted, ended
from omnifed.trust.certificates import SKEW, make_authority, make_server
from omnifed.trust.enrolment import open_request
from omnifed.trust.identity import KIT, CoordinatorIdentity, Federation, Kit
from omnifed.trust.roster import ROSTER, Roster, Term
from omnifed.trust.signing import Signed, SigningKey, fingerprint, no_key

ROSTER_TERM = timedelta(days=180)
SIGN_TERM = timedelta(days=90)


def found(folder: Path, name: str, server: str, *, now: datetime | None = None) -> CoordinatorIdentity:
    """Makes a federation: the coordinator's folder with the authority inside.

    Args:
        folder: new, or empty; its ``authority`` may be moved to another disk afterwards.
        name: of the federation.
        server: HOST:PORT by which sites reach the coordinator.
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
    with _aside(folder) as part:
        _make(part, about, root, sign, now)
    return CoordinatorIdentity.load(folder)


@contextmanager
def _aside(folder: Path) -> Iterator[Path]:
    """A folder (mode 0700) that becomes ``folder`` when all is in it: a crash leaves no half of an identity there."""
    part = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        yield part
        os.replace(part, folder)
    except OSError as error:
        raise not_written(folder, error) from None
    finally:
        if part:
            shutil.rmtree(part, ignore_errors=True)


def _make(part: Path, about: Federation, root: SigningKey, sign: SigningKey, now: datetime) -> None:
    (part / "authority").mkdir(mode=0o700)
    root.save(part / "authority" / "root.key")
    ca_key, ca = make_authority(about.name, now)
    write_atomic(part / "authority" / "ca.key", ca_key, mode=0o600)
    write_atomic(part / "ca.pem", ca)
    sign.save(part / "sign.key")
    _certify(part, about, part / "authority", now)
    write_atomic(part / "federation.json", about.model_dump_json(indent=1).encode())
    coordinator = (Term(sign=sign.public, since=now - SKEW, until=now + SIGN_TERM),)
    roster = Roster(federation=about.name, version=1, issued=now, expires=now + ROSTER_TERM, coordinator=coordinator)
    _publish(Signed.seal(ROSTER, roster, root), part, part / "authority")


def admit(
    folder: Path,
    request: Signed,
    *,
    authority: Path | None = None,
    replace: bool = False,
    now: datetime | None = None,
) -> Signed:
    """Makes a site a member, renews its keys' term, or takes its new keys.

    Args:
        folder: of the coordinator.
        request: what the site has sent; whoever calls this has compared its fingerprint.
        authority: folder of the authority's keys, if it was moved.
        replace: the site has lost its keys: the old ones end at once.
        now: for tests.

    Returns:
        The kit, for the site.

    Raises:
        OmniFedError: OF802 if the request was altered, OF806 without the authority's keys, OF807 if the name or the
            keys are taken.
    """
    asked, now = open_request(request), now or datetime.now(UTC)
    with _authority(folder, authority) as ours:
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
        )
        return Signed.seal(KIT, kit, ours.root)


def revoke(folder: Path, site: str, *, authority: Path | None = None, now: datetime | None = None) -> Roster:
    """Ends the membership of a site, from now on.

    Args:
        folder: of the coordinator.
        site: registered name.
        authority: folder of the authority's keys, if it was moved.
        now: for tests.

    Raises:
        OmniFedError: OF806 without the authority's keys, OF809 if no site of that name was ever admitted.
    """
    now = now or datetime.now(UTC)
    with _authority(folder, authority) as ours:
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


def rotate(folder: Path, *, authority: Path | None = None, now: datetime | None = None) -> Roster:
    """Renews what ends by itself: server certificate, signing key of the coordinator, roster.

    The old signing key stays valid for :data:`OVERLAP`, so that a coordinator that runs goes on until its next start.

    Args:
        folder: of the coordinator.
        authority: folder of the authority's keys, if it was moved.
        now: for tests.

    Raises:
        OmniFedError: OF806 without the authority's keys.
    """
    now = now or datetime.now(UTC)
    with _authority(folder, authority) as ours:
        key = SigningKey.generate()
        _certify(folder, ours.about, ours.folder, now, suffix=".next")
        key.save(folder / "sign.key.next")
        old = [ended(term, now + OVERLAP) for term in ours.roster.coordinator]
        new = Term(sign=key.public, since=now - SKEW, until=now + SIGN_TERM)
        ours.issue(now, coordinator=(*old, new))
        # The roster names the new key: loading puts the files in place.
        CoordinatorIdentity.load(folder)
        return ours.roster


@dataclass
class _Authority:
    """The authority's keys, while one process uses them."""

    online: Path
    folder: Path
    about: Federation
    root: SigningKey
    roster: Roster

    def issue(self, now: datetime, **changes: Any) -> Signed:
        """Signs and publishes the next version of the roster."""
        values = {"version": self.roster.version + 1, "issued": now, "expires": now + ROSTER_TERM, **changes}
        self.roster = self.roster.model_copy(update=values)
        signed = Signed.seal(ROSTER, self.roster, self.root)
        _publish(signed, self.online, self.folder)
        return signed


@contextmanager
def _authority(folder: Path, away: Path | None) -> Iterator[_Authority]:
    identity = CoordinatorIdentity.load(folder)
    place = away or folder / "authority"
    if not all((place / name).is_file() for name in ("root.key", "ca.key")):
        raise _wrong_authority(f"no root.key and ca.key in {place}")
    root = SigningKey.load(place / "root.key")
    if root.public != identity.about.root:
        raise _wrong_authority(f"{place} is the authority {fingerprint(root.public)}")
    handle = os.open(place, os.O_RDONLY)
    try:
        # Two admissions at a time would sign two rosters of one version.
        fcntl.flock(handle, fcntl.LOCK_EX)
        last = Signed.read((place / "roster.json").read_bytes(), str(place / "roster.json"))
        rosters = (identity.held(), last.open(ROSTER, Roster, (root.public,), "the authority's roster"))
        yield _Authority(folder, place, identity.about, root, max(rosters, key=lambda roster: roster.version))
    finally:
        os.close(handle)


def _certify(folder: Path, about: Federation, authority: Path, now: datetime, suffix: str = "") -> None:
    file = authority / "ca.key"
    try:
        key, certificate = make_server(about.host, (folder / "ca.pem").read_bytes(), file.read_bytes(), now)
    except (OSError, ValueError) as error:
        raise no_key(file, type(error).__name__) from None
    write_atomic(folder / f"server.key{suffix}", key, mode=0o600)
    write_atomic(folder / f"server.pem{suffix}", certificate)


def _publish(signed: Signed, online: Path, authority: Path) -> None:
    # The authority's copy first: a version that was signed is never given to another roster.
    for folder in (authority, online):
        write_atomic(folder / "roster.json", signed.to_json())


def _wrong_authority(seen: str) -> OmniFedError:
    return OmniFedError(
        "OF806",
        "Who belongs to a federation is signed by its own authority.",
        seen=seen,
        remedy="Bring the disk with the folder authority that omnifed-server init made, and name it: --authority DIR.",
    )
