"""What this site is to its federation, by the roster that it holds and by what the coordinator says now.

Flower's node cannot tell: whoever it is, a node that is refused ends with the same status.
"""

from __future__ import annotations

import json
import ssl
from datetime import UTC, datetime
from typing import get_args

from omnifed.errors import OmniFedError
from omnifed.transport.membership import STANDING, digest
from omnifed.trust.identity import SiteIdentity
from omnifed.trust.request import node_public
from omnifed.trust.roster import Standing
from omnifed_client.config import ClientConfig
from omnifed_client.reach import Probe, probe, trust
from omnifed_client.tls_checks import another_authority, is_untrusted


def known_refusal(identity: SiteIdentity, now: datetime | None = None) -> OmniFedError | None:
    """Why the federation would not take this site, by what the site itself holds; None if nothing speaks against it.

    Args:
        identity: of the site.
        now: for tests.
    """
    now = now or datetime.now(UTC)
    standing = identity.held().standing(identity.site, now)
    if standing in ("revoked", "expired"):
        return refused(standing, "the roster at this site")
    return refused("expired", f"kit of {identity.kit.issued:%Y-%m-%d}") if now >= identity.kit.expires else None


def asked_refusal(config: ClientConfig, identity: SiteIdentity) -> OmniFedError | None:
    """Why the coordinator does not take this site; None if it does, or if nobody can be asked now."""
    try:
        seen = ask(config, identity)
    except (OSError, ValueError):
        return None
    if is_untrusted(seen.error):
        return another_authority(config)
    standing = standing_of(seen)
    return refused(standing, config.server) if standing in ("unknown", "revoked", "expired") else None


def ask(config: ClientConfig, identity: SiteIdentity) -> Probe:
    """Asks the coordinator.

    Raises:
        OSError, ValueError: if the root certificates cannot be read.
    """
    context: ssl.SSLContext = trust(config)
    return probe(config, context, STANDING + digest(node_public(identity.node_key)))


def standing_of(seen: Probe) -> Standing | None:
    """The coordinator's answer; None if it was another one."""
    try:
        found = json.loads(seen.body)["standing"] if seen.status == 200 else ""
    except (ValueError, KeyError, TypeError):
        return None
    return next((known for known in get_args(Standing) if known == found), None)


def refused(standing: Standing, seen: str) -> OmniFedError:
    """The error of a site that is no member; OF810, OF811 or OF812."""
    if standing == "unknown":
        return OmniFedError(
            "OF810",
            "A coordinator takes sites that were admitted to its federation.",
            seen=f"{seen}: the node's key is unknown",
            remedy="Ask the coordinator's operator whether this site was admitted, and to which federation; "
            "send the request of omnifed-client enrol again if it was not.",
        )
    if standing == "revoked":
        return OmniFedError(
            "OF811",
            "A coordinator takes no site whose membership was revoked.",
            seen=f"{seen}: revoked",
            remedy="Ask the coordinator's operator why. To come back: new keys (omnifed-client enrol with a new state "
            "folder), admitted with --replace.",
        )
    return OmniFedError(
        "OF812",
        "A site's keys are valid for a time, and are renewed before it ends.",
        seen=f"{seen}: expired",
        remedy="Run omnifed-client enrol, send the request to the coordinator's operator to be admitted again, and "
        "join with the new kit. If the keys are new, check this machine's clock.",
    )
