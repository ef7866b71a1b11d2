"""What is signed, shared, revealed and kept in a private round."""

from __future__ import annotations

import hashlib

from omnifed.config import Frozen
from omnifed.privacy.secagg.keys import Session
from omnifed.trust.signing import Signed

RECEIPT, SURVIVORS = "secagg-receipt", "secagg-survivors"
"""Contexts of their signatures."""


class Receipt(Frozen):
    """What a site signs when it sends its masked update.

    Attributes:
        session: of the round.
        keys: digest (hex) of the list of keys.
        site: who sends.
        masks: sites whose masks are in it, itself included, sorted.
    """

    session: Session
    keys: str
    site: str
    masks: tuple[str, ...]


class Survivors(Frozen):
    """Whose masked updates are in the sum, as the coordinator signs it.

    Attributes:
        session, keys: as in :class:`Receipt`.
        sites: sorted.
    """

    session: Session
    keys: str
    sites: tuple[str, ...]


class Shared(Frozen):
    """A site's two secrets, shared.

    Attributes:
        sealed: both shares for each other site, base64.
        commitment: to the seed of its own mask.
        digests: sha256 (hex) of both shares of each site, its own included.
    """

    sealed: dict[str, str]
    commitment: str
    digests: dict[str, tuple[str, str]]


class Revealed(Frozen):
    """Shares (hex) by the site whose secret they are of: of its seed, or of its mask key, never both."""

    seeds: dict[str, str]
    keys: dict[str, str]


class Held(Frozen):
    """What a site keeps secret of a session.

    Attributes:
        session: of the round.
        site: its own name.
        threshold: sites that must stay.
        sites: that the round was announced with.
        channel, mask: private keys, hex.
        seed: secret of its own mask, hex.
        advert: what it advertised.
        keys: the list that it shared its secrets for; empty before.
        kept: its own shares of its own secrets.
        shared: its answer to that list.
        inbox: sealed shares of the others; empty before it sent its masked update.
        asked: sha256 of the request that it answered, by exchange.
    """

    session: Session
    site: str
    threshold: int
    sites: tuple[str, ...]
    channel: str
    mask: str
    seed: str
    advert: Signed
    keys: tuple[Signed, ...] = ()
    kept: tuple[str, str] = ("", "")
    shared: Shared | None = None
    inbox: dict[str, str] = {}
    asked: dict[str, str] = {}


def sha256(data: bytes) -> str:
    """Digest, hex."""
    return hashlib.sha256(data).hexdigest()
