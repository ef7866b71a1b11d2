"""The folders of a federation while its authority is at work: the coordinator's, and that of the keys."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

from omnifed.files import not_written, write_atomic
from omnifed.trust.authority_keys import Ask, AuthorityKeys, wrong_authority
from omnifed.trust.certificates import make_server, no_certificate
from omnifed.trust.identity import CoordinatorIdentity, Federation
from omnifed.trust.roster import ROSTER, Roster
from omnifed.trust.signing import Signed, fingerprint

ROSTER_TERM = timedelta(days=180)


@dataclass
class Opened:
    """A federation in the hands of its authority.

    Attributes:
        online: folder of the coordinator.
        folder: of the authority's keys.
        about: the federation.
        keys: of the authority.
        roster: the newest that was signed.
    """

    online: Path
    folder: Path
    about: Federation
    keys: AuthorityKeys
    roster: Roster

    def issue(self, now: datetime, **changes: Any) -> Signed:
        """Signs and publishes the next version of the roster."""
        values = {"version": self.roster.version + 1, "issued": now, "expires": now + ROSTER_TERM, **changes}
        self.roster = self.roster.model_copy(update=values)
        signed = Signed.seal(ROSTER, self.roster, self.keys.root)
        publish(signed, self.online, self.folder)
        return signed


@contextmanager
def opened(folder: Path, away: Path | None, ask: Ask) -> Iterator[Opened]:
    """The federation of a coordinator's folder; nobody else changes it meanwhile.

    Args:
        folder: of the coordinator.
        away: folder of the authority's keys, if it was moved.
        ask: for their passphrase, if they are encrypted.

    Raises:
        OmniFedError: OF805 without coordinator, OF806 without the authority's keys, OF816 without their passphrase,
            OF801 or OF802 if a file is damaged.
    """
    identity = CoordinatorIdentity.load(folder)
    place = away or folder / "authority"
    keys = AuthorityKeys.load(place, ask)
    if keys.root.public != identity.about.root:
        raise wrong_authority(f"{place} is the authority {fingerprint(keys.root.public)}")
    handle = os.open(place, os.O_RDONLY)
    try:
        # Two admissions at a time would sign two rosters of one version.
        fcntl.flock(handle, fcntl.LOCK_EX)
        last = Signed.read((place / "roster.json").read_bytes(), str(place / "roster.json"))
        rosters = (identity.held(), last.open(ROSTER, Roster, (keys.root.public,), "the authority's roster"))
        yield Opened(folder, place, identity.about, keys, max(rosters, key=lambda roster: roster.version))
    finally:
        os.close(handle)


@contextmanager
def aside(folder: Path) -> Iterator[Path]:
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


def certify(folder: Path, about: Federation, ca_key: EllipticCurvePrivateKey, now: datetime, suffix: str = "") -> None:
    """Writes a new TLS key and certificate into the coordinator's folder.

    Raises:
        OmniFedError: OF802 if the authority's certificate is damaged.
    """
    file = folder / "ca.pem"
    try:
        key, certificate = make_server(about.host, file.read_bytes(), ca_key, now)
    except (OSError, ValueError) as error:
        raise no_certificate(file, error) from None
    write_atomic(folder / f"server.key{suffix}", key, mode=0o600)
    write_atomic(folder / f"server.pem{suffix}", certificate)


def publish(signed: Signed, online: Path, authority: Path) -> None:
    """Writes a roster for the coordinator, the authority's copy first: a version that was signed is never given to
    another roster.
    """
    for folder in (authority, online):
        write_atomic(folder / "roster.json", signed.to_json())
