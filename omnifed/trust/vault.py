"""What is secret on a site's disk: AES-256-GCM (NIST SP 800-38D), one key a purpose out of the site's vault key.

A sealed text is ``OFV1``, a random nonce of 96 bits, and the ciphertext with its tag of 128 bits: 32 bytes more than
the data. The key of a purpose is HKDF-SHA256 (RFC 5869) of the vault key with the purpose as ``info``, so that what was
sealed for one purpose opens for no other. Random nonces bound a purpose to 2^32 sealed texts.
"""

from __future__ import annotations

import secrets

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from omnifed.errors import OmniFedError

KEY_BYTES = 32
"""Of a vault key."""
OVERHEAD = 32
"""Bytes by which a sealed text is longer than its data."""
_HEADER = b"OFV1"
_NONCE = 12


def seal(key: bytes, purpose: str, data: bytes) -> bytes:
    """Encrypts and authenticates ``data``.

    Args:
        key: the site's vault key, 32 bytes.
        purpose: what the data is (``"teacher cache"``); whoever opens it must say the same.
        data: any bytes.

    Returns:
        ``data`` sealed, :data:`OVERHEAD` bytes longer; different at each call.

    Raises:
        OmniFedError: OF875 if the key has another size.
    """
    nonce = secrets.token_bytes(_NONCE)
    return _HEADER + nonce + _cipher(key, purpose).encrypt(nonce, data, _HEADER)


def open(key: bytes, purpose: str, data: bytes) -> bytes:
    """Decrypts what :func:`seal` made.

    Args:
        key: the site's vault key, 32 bytes.
        purpose: as it was sealed for.
        data: as :func:`seal` returned it.

    Raises:
        OmniFedError: OF875 if it was altered or cut, or sealed with another key or for another purpose.
    """
    cipher = _cipher(key, purpose)
    start = len(_HEADER) + _NONCE
    if len(data) < OVERHEAD or not data.startswith(_HEADER):
        raise _closed("no sealed file of this version")
    try:
        return cipher.decrypt(data[len(_HEADER) : start], memoryview(data)[start:], _HEADER)
    except InvalidTag:
        raise _closed("altered, or sealed with another key or for another purpose") from None


def _cipher(key: bytes, purpose: str) -> AESGCM:
    if len(key) != KEY_BYTES:
        raise _closed(f"a vault key of {len(key)} bytes instead of {KEY_BYTES}")
    return AESGCM(HKDF(SHA256(), KEY_BYTES, salt=None, info=b"omnifed/vault/1/" + purpose.encode()).derive(key))


def _closed(why: str) -> OmniFedError:
    return OmniFedError(
        "OF875",
        "What a site keeps encrypted opens with its own vault key alone, whole and unaltered.",
        seen=why,
        remedy="Restore identity/vault.key and the file from one backup, or delete the file: its work is done again.",
    )
