"""Whom a user trusts to vouch for others: a federation's authority and the roster that it has signed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from omnifed.errors import OmniFedError
from omnifed.trust.artefact import read_regular
from omnifed.trust.kit import open_kit
from omnifed.trust.manifest import stranger
from omnifed.trust.roster import ROSTER, Roster, open_roster
from omnifed.trust.signing import Signed, fingerprint

MOST_BYTES = 16 * 2**20


@dataclass(frozen=True)
class Anchor:
    """A federation whose members are trusted.

    Attributes:
        root: public key of its authority, hex.
        roster: its members, verified.
    """

    root: str
    roster: Roster


def find_anchor(
    *, kit: Path | None = None, roster: Path | None = None, root: str = "", now: datetime | None = None
) -> Anchor | None:
    """Reads what a user has named; None if nothing was.

    Args:
        kit: a kit, or the identity folder of a site: its kit and the newest roster that it has seen.
        roster: a roster; beside a kit it is used if it is as new as the kit's.
        root: the authority's public key (64 hex digits) or its fingerprint (32); a kit names it already.
        now: for tests.

    Raises:
        OmniFedError: OF876 if a roster comes without the root that it is to be checked by, or a root without a roster;
            OF873 if the roster or the kit is another authority's; OF802, OF803 or OF870 for the files.
    """
    if kit is None and roster is None and not root:
        return None
    if kit is None:
        if roster is None or not root:
            raise _unclear("a root without a roster" if root else "a roster without its root")
        signed = _read(roster)
        _check_root(signed.key, root)
        return Anchor(signed.key, open_roster(signed, signed.key, now=now))
    inside = kit / "roster.json"
    opened = open_kit(_read(kit / "kit.json" if kit.is_dir() else kit))
    if root:
        _check_root(opened.root, root)
    seen = opened.roster.open(ROSTER, Roster, (opened.root,), "the kit's roster").version
    signed = _read(roster) if roster else _read(inside) if inside.is_file() else opened.roster
    return Anchor(opened.root, open_roster(signed, opened.root, newer_than=seen, now=now))


def _read(path: Path) -> Signed:
    return Signed.read(read_regular(path, MOST_BYTES), str(path))


def _check_root(key: str, named: str) -> None:
    digits = re.sub(r"[\s:]", "", named).lower()
    if not re.fullmatch(r"[0-9a-f]{32}|[0-9a-f]{64}", digits):
        raise _unclear(f"{named[:80]!r} is neither a key of 64 hex digits nor a fingerprint of 32")
    if digits not in (key, fingerprint(key).replace(" ", "")):
        raise stranger(f"the roster is signed by the authority {fingerprint(key)}")


def _unclear(seen: str) -> OmniFedError:
    return OmniFedError(
        "OF876",
        "Who signed is checked against a federation: a kit, or a roster and the root that has signed it.",
        seen=seen,
        remedy="Give --kit KIT (or a site's identity folder), or --roster ROSTER and --root KEY_OR_FINGERPRINT.",
    )
