"""Ed25519 signatures (RFC 8032) over documents, each bound to what it is for."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any, TypeVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pydantic import BaseModel, ValidationError

from omnifed.config import Frozen
from omnifed.errors import OmniFedError
from omnifed.files import write_atomic
from omnifed.trust.keyfiles import no_key, private_pem, read_private

M = TypeVar("M", bound=BaseModel)


def canonical(value: Any) -> bytes:
    """The one JSON text of ``value``: sorted keys, no spaces, UTF-8, no NaN. What is hashed and signed."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


class SigningKey:
    """A private Ed25519 key. It never leaves the machine that made it.

    Args:
        key: of the ``cryptography`` package.
    """

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw).hex()

    @classmethod
    def generate(cls) -> SigningKey:
        """A new key from the system's random source."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def load(cls, path: Path, passphrase: str = "") -> SigningKey:
        """Reads what :meth:`save` wrote.

        Raises:
            OmniFedError: OF801 if the file is absent, damaged or another kind of key, OF816 if it is encrypted with
                another passphrase.
        """
        key = read_private(path, passphrase)
        if not isinstance(key, Ed25519PrivateKey):
            raise no_key(path, "another kind of key")
        return cls(key)

    def save(self, path: Path, passphrase: str = "") -> None:
        """Writes the key as PEM (PKCS 8), mode 0600, in clear without a passphrase."""
        write_atomic(path, private_pem(self._key, passphrase), mode=0o600)

    def sign(self, context: str, message: bytes) -> str:
        """Signs a message for one purpose.

        Args:
            context: what the signature is for (``"roster"``): it is valid for nothing else.
            message: any bytes.

        Returns:
            The signature, base64.
        """
        return base64.b64encode(self._key.sign(_bound(context, message))).decode()


def verify(public: str, context: str, message: bytes, signature: str) -> bool:
    """Whether ``signature`` is that of the key ``public`` (hex) for this context and message; never raises."""
    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public))
        key.verify(base64.b64decode(signature, validate=True), _bound(context, message))
    except (InvalidSignature, ValueError, binascii.Error):
        return False
    return True


def fingerprint(public: str) -> str:
    """What two people compare by telephone: 32 hex digits of the key's sha256 in groups of four."""
    digest = hashlib.sha256(bytes.fromhex(public)).hexdigest()[:32]
    return " ".join(digest[i : i + 4] for i in range(0, 32, 4))


class Signed(Frozen):
    """A document and its signature, as they lie in a file or travel.

    Attributes:
        body: JSON text, exactly as it was signed.
        key: public key of the signer, hex; who that is, the reader must know from elsewhere.
        signature: base64.
    """

    body: str
    key: str
    signature: str

    @classmethod
    def seal(cls, context: str, document: BaseModel, key: SigningKey) -> Signed:
        """Signs a document."""
        body = canonical(document.model_dump(mode="json"))
        return cls(body=body.decode(), key=key.public, signature=key.sign(context, body))

    @classmethod
    def read(cls, data: bytes, what: str) -> Signed:
        """Parses a file; nothing is verified yet.

        Raises:
            OmniFedError: OF802 if it is no signed document.
        """
        try:
            return cls.model_validate_json(data)
        except ValidationError:
            raise _untrue(what, "no signed document") from None

    def open(self, context: str, model: type[M], trusted: Collection[str], what: str) -> M:
        """The document, if one of the keys ``trusted`` (hex) has signed it for ``context``.

        Raises:
            OmniFedError: OF802 if another key has signed it, if it was altered, or if it is no ``model``.
        """
        if self.key not in trusted:
            raise _untrue(what, f"signed by the unknown key {self.key[:16]!r}")
        if not verify(self.key, context, self.body.encode(), self.signature):
            raise _untrue(what, "the signature does not fit the text")
        try:
            return model.model_validate_json(self.body)
        except ValidationError as error:
            raise _untrue(what, f"{error.error_count()} fields against the schema") from None

    def to_json(self) -> bytes:
        """The content of its file."""
        return self.model_dump_json(indent=1).encode()


def _bound(context: str, message: bytes) -> bytes:
    return b"omnifed/1/" + context.encode() + b"\0" + message


def _untrue(what: str, why: str) -> OmniFedError:
    return OmniFedError(
        "OF802",
        "A document that others must trust is whole and signed by the key that it should be signed by.",
        seen=f"{what}: {why}",
        remedy="Ask whoever made it for a fresh copy; compare fingerprints by telephone.",
    )
