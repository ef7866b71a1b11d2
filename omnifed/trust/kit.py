"""The kit: what the federation's authority answers to a site's request, and all that a site needs to connect."""

from __future__ import annotations

import ipaddress
import re
from contextlib import suppress
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, AwareDatetime, Field, SerializerFunctionWrapHandler, model_serializer

from omnifed.config import Frozen
from omnifed.trust.policy import Policy
from omnifed.trust.roster import FEDERATION_NAME, HEX_KEY, ROSTER, SITE_NAME, Roster
from omnifed.trust.signing import Signed

KIT = "kit"
"""Context of a kit's signature."""


def host_of(server: str) -> str:
    """Host of HOST:PORT; "" where it is none."""
    try:
        url = urlsplit(f"//{server}")
        host = url.hostname or ""
        if url.netloc != server or not url.port or "@" in server:
            return ""
        with suppress(ValueError):
            return str(ipaddress.ip_address(host))
    except ValueError:
        return ""
    return host if re.fullmatch(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?", host) else ""


def _address(server: str) -> str:
    if not host_of(server):
        raise ValueError("server must be HOST:PORT without https://, for example omnifed.example.org:443")
    return server


Address = Annotated[str, AfterValidator(_address)]
"""HOST:PORT of a coordinator."""


class Kit(Frozen):
    """The coordinator's answer to a site's request, signed by the federation's authority.

    Attributes:
        federation: its name.
        site: whom it admits.
        server: HOST:PORT of the coordinator, as sites reach it.
        root: public key of the authority, hex.
        ca: PEM certificate of the authority behind the coordinator's TLS certificate.
        roster: who belongs to the federation; it arrives again with tasks when it changes.
        issued, expires: the site's keys are valid in between.
        policy: what the federation proposes; the keys that it names are those that were set.
    """

    federation: str = Field(pattern=FEDERATION_NAME)
    site: str = Field(pattern=SITE_NAME)
    server: Address
    root: str = Field(pattern=HEX_KEY)
    ca: str
    roster: Signed
    issued: AwareDatetime
    expires: AwareDatetime
    policy: Policy | None = None

    @model_serializer(mode="wrap")
    def _said(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Only what is proposed: without a proposal releases before it take the kit too."""
        values: dict[str, Any] = handler(self)
        del values["policy"]
        return values | ({"policy": self.policy.model_dump(mode="json", exclude_unset=True)} if self.policy else {})


def open_kit(signed: Signed) -> Kit:
    """A kit whose own authority has signed it; that it is the right authority, people compare by its fingerprint.

    Raises:
        OmniFedError: OF802 if it was altered.
    """
    kit = signed.open(KIT, Kit, (signed.key,), "the kit")
    # Not whether it has expired: a site keeps its kit for a year, and newer rosters come with tasks.
    kit.roster.open(ROSTER, Roster, (kit.root,), "the kit's roster")
    return kit if kit.root == signed.key else signed.open(KIT, Kit, (kit.root,), "the kit")
