"""A site's way into a federation: keys made at the site, a request, and the kit that answers it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from omnifed.errors import OmniFedError
from omnifed.files import locked, not_written, write_atomic
from omnifed.trust.identity import GUARD, SiteIdentity
from omnifed.trust.keyfiles import no_key
from omnifed.trust.kit import Kit, open_kit
from omnifed.trust.request import REQUEST, ROTATION, Request, node_public, open_request
from omnifed.trust.roster import ROSTER, Roster, open_roster
from omnifed.trust.signing import Signed, SigningKey

NEXT = "next"
"""Folder of the keys that wait for their kit, inside of the site's."""


def enrol(folder: Path, site: str, *, now: datetime | None = None) -> Signed:
    """Makes a site's keys, once; asked again it gives the same request.

    Args:
        folder: identity folder of the site; made with mode 0700.
        site: registered name.
        now: for tests.

    Raises:
        OmniFedError: OF809 if the folder is another site's, OF801 if a key of an earlier request is gone.
    """
    _private(folder)
    made = folder / "request.json"
    if made.is_file():
        signed, request = _own(folder)
        if request.site != site:
            raise OmniFedError(
                "OF809",
                "A state folder is the folder of one site.",
                seen=f"{folder} is {request.site}'s, asked for {site}",
                remedy=f"Give {site} a state folder of its own: --state DIR.",
            )
        return signed
    if (folder / "kit.json").is_file():
        SigningKey.load(folder / "site.key")
    return _request(folder, site, now or datetime.now(UTC))


def renew(folder: Path, *, now: datetime | None = None) -> Signed:
    """Makes new keys beside those in use, and a request that the key in use signs too; asked again it gives the same.

    Args:
        folder: identity folder of a site that has joined.
        now: for tests.

    Raises:
        OmniFedError: OF804 if the site has not joined, OF801 or OF802 if a file is damaged.
    """
    identity = SiteIdentity.load(folder)
    if (folder / NEXT / "request.json").is_file():
        return _own(folder / NEXT)[0]
    _private(folder / NEXT)
    return _request(folder / NEXT, identity.site, now or datetime.now(UTC), identity.key)


def join(folder: Path, signed: Signed, *, now: datetime | None = None) -> SiteIdentity:
    """Takes the coordinator's answer: the first, a renewed one, or that to new keys, which are then in use.

    Args:
        folder: identity folder in which the keys were made.
        signed: the kit.
        now: for tests.

    Raises:
        OmniFedError: OF802 if the kit was altered, OF803 if its roster has expired, OF808 if it is another site's, for
            other keys, of another federation, or older than the one in use.
    """
    kit = open_kit(signed)
    if not (folder / "request.json").is_file():
        raise _unfit(f"no request was made in {folder}", f"Run omnifed-client enrol --site {kit.site} first.")
    # A client that runs may take a newer roster from a task at this moment.
    with locked(folder / GUARD):
        newest = _newest(folder, kit)
        waiting = _waiting(folder, kit, open_roster(newest, kit.root, now=now), now or datetime.now(UTC))
        write_atomic(folder / "ca.pem", kit.ca.encode())
        write_atomic(folder / "roster.json", newest.to_json(), mode=0o600)
        for path in waiting:
            # While both terms are valid any mixture of old and new keys works, so a crash in between does no harm.
            os.replace(path, folder / path.name)
        write_atomic(folder / "kit.json", signed.to_json(), mode=0o600)
        if waiting:
            shutil.rmtree(folder / NEXT, ignore_errors=True)
        return SiteIdentity.load(folder)


def _request(folder: Path, site: str, now: datetime, old: SigningKey | None = None) -> Signed:
    """Makes the keys in ``folder`` that are not there yet, and the request, which is written last."""
    if not (folder / "site.key").is_file():
        SigningKey.generate().save(folder / "site.key")
    if not (folder / "node.key").is_file():
        node = ec.generate_private_key(ec.SECP384R1())
        # Flower reads this format alone.
        text = node.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
        write_atomic(folder / "node.key", text, mode=0o600)
    key = SigningKey.load(folder / "site.key")
    request = Request(site=site, sign=key.public, node=node_public(folder / "node.key"), created=now)
    if old:
        proof = old.sign(ROTATION, request.message())
        request = request.model_copy(update={"previous": old.public, "proof": proof})
    signed = Signed.seal(REQUEST, request, key)
    write_atomic(folder / "request.json", signed.to_json(), mode=0o600)
    return signed


def _own(folder: Path) -> tuple[Signed, Request]:
    """The request that was made before, if its keys are still there."""
    signed = Signed.read((folder / "request.json").read_bytes(), "request.json")
    request = open_request(signed)
    for name, fits in _tests(request.sign, request.node).items():
        if not fits(folder / name):
            raise no_key(folder / name, "not the key of request.json")
    return signed, request


def _newest(folder: Path, kit: Kit) -> Signed:
    """The kit's roster, or the one that came with a task since the kit was made."""
    if not (folder / "kit.json").is_file():
        return kit.roster
    joined = SiteIdentity.load(folder)
    if joined.kit.root != kit.root:
        raise _unfit(
            f"{folder} has joined {joined.kit.federation}, the kit is of another authority ({kit.federation})",
            "Enrol for another federation into a fresh state folder: --state DIR.",
        )
    if kit.issued < joined.kit.issued:
        raise _unfit(
            f"issued {kit.issued:%Y-%m-%d %H:%M}, the kit in use {joined.kit.issued:%Y-%m-%d %H:%M}",
            "Take the latest kit that the coordinator has sent.",
        )
    theirs = kit.roster.open(ROSTER, Roster, (kit.root,), "the kit's roster")
    return kit.roster if theirs.version >= joined.held().version else joined.signed_roster()


def _waiting(folder: Path, kit: Kit, roster: Roster, now: datetime) -> list[Path]:
    """Checks that the kit is for the keys of this folder; those files of it that wait for this kit."""
    site = open_request(Signed.read((folder / "request.json").read_bytes(), "request.json")).site
    if kit.site != site:
        raise _unfit(f"the kit is for {kit.site}, this is {site}", "Ask the coordinator for this site's kit.")
    member = roster.member(site)
    if member is None or roster.standing(site, now) != "member":
        raise _unfit(
            f"{site} is {roster.standing(site, now)} in the kit's roster", "Ask the coordinator for a new kit."
        )
    newest, found = member.terms[-1], []
    for name, fits in _tests(newest.sign, newest.node).items():
        path = next((each for each in (folder / NEXT / name, folder / name) if each.is_file() and fits(each)), None)
        if path is None:
            raise _unfit(f"the kit is for another {name}", "Send the coordinator what omnifed-client enrol gives now.")
        found.append(path)
    moves = [path for path in found if path.parent != folder]
    # The request first: without one, those keys that still wait are found again.
    return [each for each in (folder / NEXT / "request.json",) if moves and each.is_file()] + moves


def _tests(sign: str, node: str) -> dict[str, Callable[[Path], bool]]:
    return {
        "site.key": lambda path: SigningKey.load(path).public == sign,
        "node.key": lambda path: node_public(path) == node,
    }


def _private(folder: Path) -> None:
    # The state folder above holds what derives from patients: closed to others as well, if it is made here.
    try:
        folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.mkdir(exist_ok=True, mode=0o700)
        folder.chmod(0o700)
    except OSError as error:
        raise not_written(folder, error) from None


def _unfit(seen: str, remedy: str) -> OmniFedError:
    return OmniFedError(
        "OF808",
        "A kit is taken by the site, the keys and the federation that it was made for.",
        seen=seen,
        remedy=remedy,
    )
