"""What a site sends to the coordinator before it joins: its public keys, in a document that these keys have signed."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_ssh_private_key,
    load_ssh_public_key,
)
from pydantic import AwareDatetime, Field, field_validator

from omnifed.config import Frozen
from omnifed.trust.keyfiles import no_key
from omnifed.trust.roster import HEX_KEY, SITE_NAME
from omnifed.trust.signing import Signed, canonical, verify

REQUEST = "request"
"""Context of a request's signature."""
ROTATION = "rotation"
"""Context of the old key's signature over a request for new keys."""


class Request(Frozen):
    """What a site asks with, signed by its own new key.

    Attributes:
        site: registered name that it wants.
        sign: public Ed25519 key, hex.
        node: public EC P-384 key of Flower's node, OpenSSH text without comment.
        created: when the keys were made.
        previous: the key that these replace, hex; "" at first.
        proof: signature by ``previous``, base64; "" at first.
    """

    site: str = Field(pattern=SITE_NAME)
    sign: str = Field(pattern=HEX_KEY)
    node: str = Field(max_length=400)
    created: AwareDatetime
    previous: str = Field("", pattern=rf"^$|{HEX_KEY}")
    proof: str = ""

    @field_validator("node")
    @classmethod
    def _canonical(cls, node: str) -> str:
        key = load_ssh_public_key(node.encode())
        # One key has one text: the roster finds a key that two sites claim by comparing texts.
        if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp384r1" or _text(key) != node:
            raise ValueError("not an EC P-384 key")
        return node

    @property
    def proven(self) -> bool:
        """Whether the holder of ``previous`` asks for these keys."""
        return verify(self.previous, ROTATION, self.message(), self.proof)

    def message(self) -> bytes:
        """What ``previous`` signs."""
        return canonical(self.model_dump(mode="json", exclude={"previous", "proof"}))


def open_request(signed: Signed) -> Request:
    """A request that was signed by the very key that it names.

    Raises:
        OmniFedError: OF802 if it was altered.
    """
    request = signed.open(REQUEST, Request, (signed.key,), "the request")
    return request if request.sign == signed.key else signed.open(REQUEST, Request, (request.sign,), "the request")


def node_public(path: Path) -> str:
    """Public half, OpenSSH text, of the node's key in ``path``.

    Raises:
        OmniFedError: OF801 if the file is absent, damaged or another kind of key.
    """
    try:
        key = load_ssh_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        raise no_key(path, type(error).__name__) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise no_key(path, "another kind of key")
    return _text(key.public_key())


def _text(key: ec.EllipticCurvePublicKey) -> str:
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
