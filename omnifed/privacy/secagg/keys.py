"""Keys of a private round: advertised, signed, agreed on; each bound to the whole list and to its one use.

X25519 (RFC 7748), HKDF-SHA256 (RFC 5869), ChaCha20-Poly1305 (RFC 8439).
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cached_property

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from pydantic import Field

from omnifed.config import Frozen
from omnifed.errors import OmniFedError
from omnifed.privacy.secagg.errors import refused_keys, refused_shares
from omnifed.trust.roster import HEX_KEY, Roster
from omnifed.trust.signing import Signed, canonical

KEYS = "secagg-keys"
"""Context of the signature under a site's keys."""
KEY_BYTES = 32
_NONCE = 12
_LABEL = b"omnifed/1/secagg/"


class Session(Frozen):
    """One attempt of one round: what every signature and every key of it is bound to."""

    federation: str
    campaign: str
    arm: str
    round: int = Field(ge=0)
    attempt: int = Field(ge=0)


class Advert(Frozen):
    """A site's two public keys of a session (X25519, hex).

    Attributes:
        session: the only one that they are good for.
        site: registered name.
        channel: shares for this site are encrypted for it.
        mask: the masks that two sites share come from it.
    """

    session: Session
    site: str
    channel: str = Field(pattern=HEX_KEY)
    mask: str = Field(pattern=HEX_KEY)


@dataclass(frozen=True)
class Parties:
    """The sites of a session with their verified keys, in the order of their names.

    Attributes:
        session: whose.
        adverts: by site.
        signers: the key (hex) with which each site signed: its receipt must carry the same one.
    """

    session: Session
    adverts: dict[str, Advert]
    signers: dict[str, str]

    @classmethod
    def open(cls, signed: Iterable[Signed], session: Session, roster: Roster, allowed: Collection[str]) -> Parties:
        """Verifies a list of keys.

        Args:
            signed: one advert a site.
            session: that all must be for.
            roster: whose members may sign.
            allowed: sites of the round.

        Raises:
            OmniFedError: OF841 for a key that no member of ``allowed`` has signed for this session and site, or a
                site or key that comes twice.
        """
        signed = tuple(signed)
        for one in signed:
            advert = _opened(one)
            if one.key not in roster.keys_of(advert.site):
                raise refused_keys(f"the keys of {advert.site} are signed by no key of a member of that name")
            if advert.site not in allowed:
                raise refused_keys(f"{advert.site} is not asked")
        return cls.read(signed, session)

    @classmethod
    def read(cls, signed: Iterable[Signed], session: Session) -> Parties:
        """A list that was verified before: its members may have left the roster since.

        Raises:
            OmniFedError: OF841 for keys of another session, and a site or key that comes twice.
        """
        adverts: dict[str, Advert] = {}
        signers: dict[str, str] = {}
        for one in signed:
            advert = _opened(one)
            if advert.session != session:
                raise refused_keys(f"the keys of {advert.site} are for another session")
            if advert.site in adverts:
                raise refused_keys(f"{advert.site} comes twice")
            adverts[advert.site], signers[advert.site] = advert, one.key
        public = [key for advert in adverts.values() for key in (advert.channel, advert.mask)]
        if len(set(public)) < len(public):
            raise refused_keys("a key comes twice")
        return cls(session, dict(sorted(adverts.items())), signers)

    @cached_property
    def digest(self) -> bytes:
        """sha256 of the session and all keys: sites with another list agree on other secrets."""
        return hashlib.sha256(canonical([advert.model_dump() for advert in self.adverts.values()])).digest()

    @property
    def numbers(self) -> dict[str, int]:
        """Place of each site in the list, from 1: where its shares are taken."""
        return {site: number for number, site in enumerate(self.adverts, 1)}


def new_key() -> bytes:
    """A private X25519 key, 32 random bytes."""
    return secrets.token_bytes(KEY_BYTES)


def public_of(private: bytes) -> str:
    """The public half, hex."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw().hex()


def mask_seed(private: bytes, public: str, parties: Parties, one: str, other: str) -> bytes:
    """Seed (32 bytes) of the mask that two sites share; the same at both."""
    low, high = sorted((one, other))
    return _agreed(private, public, parties, "mask", low, high)


def own_seed(seed: bytes, parties: Parties, site: str) -> bytes:
    """Seed (32 bytes) of a site's own mask, from its secret."""
    return _derived(seed, parties, "own", site)


def seal_share(private: bytes, public: str, parties: Parties, sender: str, receiver: str, data: bytes) -> bytes:
    """Encrypts shares for one site: nonce and ciphertext."""
    key = _agreed(private, public, parties, "channel", sender, receiver)
    nonce = secrets.token_bytes(_NONCE)
    return nonce + ChaCha20Poly1305(key).encrypt(nonce, data, _about(parties, sender, receiver))


def open_share(private: bytes, public: str, parties: Parties, sender: str, receiver: str, sealed: bytes) -> bytes:
    """Decrypts what :func:`seal_share` made.

    Raises:
        OmniFedError: OF843 if it was altered, or is for another site, session or list of keys.
    """
    key = _agreed(private, public, parties, "channel", sender, receiver)
    try:
        return ChaCha20Poly1305(key).decrypt(sealed[:_NONCE], sealed[_NONCE:], _about(parties, sender, receiver))
    except (InvalidTag, ValueError):
        raise refused_shares(f"the share from {sender} does not open") from None


def commitment(seed: bytes, parties: Parties, site: str) -> str:
    """sha256 (hex) by which a site commits to the secret of its own mask: 256 random bits hide it."""
    return hashlib.sha256(_LABEL + b"commit\0" + _about(parties, site, site) + seed).hexdigest()


def _opened(signed: Signed) -> Advert:
    try:
        return signed.open(KEYS, Advert, (signed.key,), "a site's keys")
    except OmniFedError as error:
        raise refused_keys(error.seen) from None


def _agreed(private: bytes, public: str, parties: Parties, use: str, *names: str) -> bytes:
    try:
        secret = X25519PrivateKey.from_private_bytes(private).exchange(
            X25519PublicKey.from_public_bytes(bytes.fromhex(public))
        )
    except ValueError:  # a point of low order: the secret would be zeros for everybody
        raise refused_keys("a public key that gives no secret") from None
    return _derived(secret, parties, use, *names)


def _derived(secret: bytes, parties: Parties, use: str, *names: str) -> bytes:
    info = _LABEL + use.encode() + b"\0" + canonical([parties.session.model_dump(), *names])
    return HKDF(SHA256(), KEY_BYTES, salt=parties.digest, info=info).derive(secret)


def _about(parties: Parties, sender: str, receiver: str) -> bytes:
    return parties.digest + canonical([parties.session.model_dump(), sender, receiver])
