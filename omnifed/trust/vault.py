"""What is secret on a site's disk: AES-256-GCM (NIST SP 800-38D), one key a purpose out of the site's vault key.

A sealed text is ``OFV1``, a random nonce of 96 bits, and the ciphertext with its tag of 128 bits: 32 bytes more than
the data. One of more than 2^30 bytes (SAM ViT-H has 2.5 GB) is ``OFV2``, 64 random bits, and pieces with a tag each:
the nonce of a piece is these bits, whether it is the last, and its number (STREAM, Hoang et al., CRYPTO 2015). The key
of a purpose is HKDF-SHA256 (RFC 5869) of the vault key with the purpose as ``info``, so that what was sealed for one
purpose opens for no other. Random nonces bound a purpose to 2^32 sealed texts.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from omnifed.errors import OmniFedError

KEY_BYTES = 32
"""Of a vault key."""
OVERHEAD = 32
"""Bytes by which a sealed text of one piece is longer than its data."""
PIECE = 2**30
"""Bytes of a piece; AES-GCM of the library takes 2^31 - 1 at a time. Part of the format."""
_HEADER, _LONG = b"OFV1", b"OFV2"
_NONCE, _START, _TAG = 12, 8, 16


def seal(key: bytes, purpose: str, data: bytes) -> bytes:
    """Encrypts and authenticates ``data``.

    Args:
        key: the site's vault key, 32 bytes.
        purpose: what the data is (``"teacher cache"``); whoever opens it must say the same.
        data: any bytes.

    Returns:
        ``data`` sealed, :data:`OVERHEAD` bytes longer (or some more above :data:`PIECE`); different at each call.

    Raises:
        OmniFedError: OF875 if the key has another size.
    """
    cipher = _cipher(key, purpose)
    if len(data) > PIECE:
        return b"".join(_sealed_pieces(cipher, data))
    nonce = secrets.token_bytes(_NONCE)
    return _HEADER + nonce + cipher.encrypt(nonce, data, _HEADER)


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
    if len(data) < OVERHEAD or not data.startswith((_HEADER, _LONG)):
        raise _closed("no sealed file of this version")
    try:
        if data.startswith(_LONG):
            return b"".join(_opened_pieces(cipher, memoryview(data)[len(_LONG) :]))
        return cipher.decrypt(data[len(_HEADER) : start], memoryview(data)[start:], _HEADER)
    except InvalidTag:
        raise _closed("altered, or sealed with another key or for another purpose") from None


def _sealed_pieces(cipher: AESGCM, data: bytes) -> Iterator[bytes]:
    start = secrets.token_bytes(_START)
    yield _LONG + start
    for i in range(0, len(data), PIECE):
        yield cipher.encrypt(_nonce(start, i // PIECE, i + PIECE >= len(data)), memoryview(data)[i : i + PIECE], _LONG)


def _opened_pieces(cipher: AESGCM, data: memoryview) -> Iterator[bytes]:
    start, step = bytes(data[:_START]), PIECE + _TAG
    for i in range(_START, len(data), step):
        yield cipher.decrypt(_nonce(start, i // step, i + step >= len(data)), data[i : i + step], _LONG)


def _nonce(start: bytes, number: int, last: bool) -> bytes:
    return start + (last << 31 | number).to_bytes(_NONCE - _START, "big")


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
