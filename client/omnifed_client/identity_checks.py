"""Whether a site can prove who it is, as far as its own disk says."""

from __future__ import annotations

from datetime import UTC, datetime

from omnifed.errors import OmniFedError
from omnifed.trust.expiry import warnings_of_site
from omnifed.trust.identity import SiteIdentity
from omnifed.trust.request import node_public
from omnifed.trust.signing import fingerprint
from omnifed_client.checks import Finding
from omnifed_client.config import ClientConfig


def check_identity(config: ClientConfig, *, now: datetime | None = None) -> Finding:
    """Joined, for this site, in good standing in the roster that it holds, and nothing that ends soon.

    Args:
        config: of the client.
        now: for tests.
    """
    if config.insecure:
        return Finding("identity", "ok", "not needed with --insecure")
    now = now or datetime.now(UTC)
    try:
        identity = SiteIdentity.load(config.state / "identity")
        held = identity.held()
        node_public(identity.node_key)
        endings = warnings_of_site(identity, now)
    except OmniFedError as error:
        return Finding("identity", "fail", error.seen, error.remedy, error.code)
    if identity.site != config.site:
        remedy = f"Give {config.site} a state folder of its own: --state DIR."
        return Finding("identity", "fail", f"the kit is {identity.site}'s", remedy, "OF808")
    standing = held.standing(identity.site, now)
    seen = f"{standing} of {held.federation} in roster {held.version}, {fingerprint(identity.kit.root)}"
    if standing != "member":
        # The held roster may be old: the last word is the coordinator's.
        remedy = "Ask the coordinator; expired keys are renewed with: omnifed-client rotate"
        return Finding("identity", "fail", seen, f"{remedy} --site {identity.site}", "OF808")
    if endings:
        return Finding("identity", "warn", f"{seen}; {'; '.join(endings)}", "Renew what ends, as said.", "OF803")
    return Finding("identity", "ok", f"{seen}, until {identity.kit.expires:%Y-%m-%d}")
