"""Private keys in PEM files (PKCS 8), encrypted where there is a passphrase.

The format stretches a passphrase by 2,048 rounds of PBKDF2 only, about a millisecond: it must be a long one.
"""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from omnifed.errors import OmniFedError

PrivateKey = Ed25519PrivateKey | EllipticCurvePrivateKey


def private_pem(key: PrivateKey, passphrase: str = "") -> bytes:
    """The content of a key's file; in clear without a passphrase."""
    hidden = BestAvailableEncryption(passphrase.encode()) if passphrase else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, hidden)


def is_encrypted(path: Path) -> bool:
    """Whether the key in a file needs a passphrase; False if there is no file."""
    return path.is_file() and _encrypted(path.read_bytes())


def read_private(path: Path, passphrase: str = "") -> PrivateKey:
    """Reads what :func:`private_pem` made.

    Args:
        path: of the file.
        passphrase: if the file is encrypted; not used for one in clear.

    Raises:
        OmniFedError: OF801 if the file is absent, damaged or another kind of key, OF816 if it is encrypted with
            another passphrase.
    """
    data = b""
    try:
        data = path.read_bytes()
        key = load_pem_private_key(data, passphrase.encode() if _encrypted(data) else None)
    except (OSError, ValueError, TypeError) as error:
        if _encrypted(data):
            raise no_passphrase(f"{path}: not opened by what was given, or damaged") from None
        raise no_key(path, type(error).__name__) from None
    if not isinstance(key, Ed25519PrivateKey | EllipticCurvePrivateKey):
        raise no_key(path, "another kind of key")
    return key


def no_key(path: Path, why: str) -> OmniFedError:
    """The error of a private key that cannot be used."""
    return OmniFedError(
        "OF801",
        "A private key must be a whole PEM file of the kind that omnifed made.",
        seen=f"{path}: {why}",
        remedy="Restore it from your backup, or make a new identity (omnifed-client enrol, omnifed-server init).",
    )


def no_passphrase(seen: str) -> OmniFedError:
    """The error of an encrypted key that was not opened."""
    return OmniFedError(
        "OF816",
        "Encrypted keys of an authority are opened with their passphrase.",
        seen=seen,
        remedy="Give it on a terminal, in scripts as OMNIFED_PASSPHRASE. Nobody can recover one that is forgotten.",
    )


def _encrypted(data: bytes) -> bool:
    return data.startswith(b"-----BEGIN ENCRYPTED")
