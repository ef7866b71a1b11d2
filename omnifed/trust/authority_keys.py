"""The two private keys of an authority, ``root.key`` (Ed25519) and ``ca.key`` (EC P-384), as they lie on its disk."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

from omnifed.errors import OmniFedError
from omnifed.files import write_atomic
from omnifed.trust.keyfiles import is_encrypted, no_key, no_passphrase, private_pem, read_private
from omnifed.trust.signing import SigningKey

ROOT, CA = "root.key", "ca.key"
WAITING = "ca.key.next"
"""Key with a new passphrase, while ``root.key`` has the old one."""
Ask = Callable[[], str]
"""Gives the passphrase; called only where keys are encrypted."""


def nobody() -> str:
    """Has no passphrase.

    Raises:
        OmniFedError: OF816.
    """
    raise no_passphrase("the keys are encrypted, nobody was asked")


@dataclass(frozen=True)
class AuthorityKeys:
    """The keys in memory.

    Attributes:
        root: signs rosters and kits.
        ca: signs the coordinator's TLS certificates.
    """

    root: SigningKey
    ca: EllipticCurvePrivateKey

    @classmethod
    def load(cls, folder: Path, ask: Ask = nobody) -> AuthorityKeys:
        """Reads what :meth:`save` wrote.

        Raises:
            OmniFedError: OF801 if a key is damaged, OF806 if one is absent, OF816 without the passphrase.
        """
        if not all((folder / name).is_file() for name in (ROOT, CA)):
            raise wrong_authority(f"no {ROOT} and {CA} in {folder}")
        passphrase = ask() if is_encrypted(folder / ROOT) else ""
        root = SigningKey.load(folder / ROOT, passphrase)
        _finish(folder, passphrase)
        return cls(root, _ca(folder / CA, passphrase))

    def save(self, folder: Path, passphrase: str = "") -> None:
        """Writes both keys, mode 0600, in clear without a passphrase. After a crash both have one passphrase: the old
        one until ``root.key`` is replaced, then the new one.
        """
        write_atomic(folder / WAITING, private_pem(self.ca, passphrase), mode=0o600)
        self.root.save(folder / ROOT, passphrase)
        os.replace(folder / WAITING, folder / CA)


def wrong_authority(seen: str) -> OmniFedError:
    """The error of keys that are not there, or another federation's."""
    return OmniFedError(
        "OF806",
        "Who belongs to a federation is signed by its own authority.",
        seen=seen,
        remedy="Bring the disk with the folder authority that omnifed-server init made, and name it: --authority DIR.",
    )


def _ca(path: Path, passphrase: str) -> EllipticCurvePrivateKey:
    key = read_private(path, passphrase)
    if not isinstance(key, EllipticCurvePrivateKey):
        raise no_key(path, "another kind of key")
    return key


def _finish(folder: Path, passphrase: str) -> None:
    """Puts a key in place that waits since a crash, if it has the passphrase with which ``root.key`` was opened."""
    waiting = folder / WAITING
    if not waiting.is_file():
        return
    try:
        fits = is_encrypted(waiting) == bool(passphrase)
        _ca(waiting, passphrase)
    except OmniFedError:
        fits = False
    if fits:
        os.replace(waiting, folder / CA)
    else:
        waiting.unlink()
