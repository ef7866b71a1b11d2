"""What can be wrong between this machine and the coordinator: proxy, name, reachability, clock, membership."""

from __future__ import annotations

import os
import ssl

from omnifed.errors import OmniFedError
from omnifed.trust.identity import SiteIdentity
from omnifed_client.checks import Finding, unexamined
from omnifed_client.config import ClientConfig
from omnifed_client.reach import Probe, probe, proxy_for, trust, unverified, words
from omnifed_client.standing import ask, refused, standing_of
from omnifed_client.tls_checks import roots_finding, tls_finding

CLOCK_WARN_S, CLOCK_AHEAD_S, CLOCK_BEHIND_S = 3.0, 5.0, 300.0
"""Flower's coordinator refuses a node's signature that is dated more than 5 s ahead or 305 s behind: the node never
connects, and nothing says why."""


def check_network(config: ClientConfig) -> list[Finding]:
    """One way to the coordinator, judged step by step: proxy, name, reachability, TLS, clock, membership."""
    if not config.server:
        remedy = "Join first (omnifed-client enrol, then join KIT), or set `server`."
        return [Finding("coordinator", "warn", "not examined: its address is in the kit", remedy, "OF142")]
    context: ssl.SSLContext | None = None
    if not config.insecure:
        try:
            context = trust(config)
        except (OSError, ValueError) as error:
            return [check_proxy(config), roots_finding(config, error)]
    seen = probe(config, context)
    # A certificate that does not verify hides the clock, which is one of the reasons why it may not verify.
    behind = probe(config, unverified()) if seen.stage == "tls" else seen
    return [
        check_proxy(config),
        name_finding(config, seen),
        reach_finding(config, seen),
        tls_finding(config, seen),
        clock_finding(behind),
        *standing_findings(config, seen),
    ]


def check_proxy(config: ClientConfig) -> Finding:
    """Whether the environment sends the way to the coordinator through a proxy."""
    names = sorted({name.upper() for name in os.environ if name.lower() in _PROXY_VARIABLES and os.environ[name]})
    if not names:
        return Finding("proxy", "ok", "no variable sets one")
    url = proxy_for(config)
    if not url:
        return Finding("proxy", "ok", f"{', '.join(names)} set; {config.host} is reached directly")
    seen = f"{', '.join(names)} set; {config.host} is reached through {url.rpartition('@')[2].rpartition('//')[2]}"
    if not url.startswith("http://"):
        remedy = "Set an http:// proxy, or add the coordinator's host to NO_PROXY if it can be reached directly."
        return Finding("proxy", "warn", f"{seen}, which cannot be tried out here", remedy, "OF138")
    return Finding("proxy", "ok", seen)


_PROXY_VARIABLES = ("http_proxy", "https_proxy", "all_proxy")


def name_finding(config: ClientConfig, seen: Probe) -> Finding:
    """Whether the first host on the way has an address."""
    host = seen.proxy.rpartition(":")[0] or config.host
    if seen.stage == "proxy":
        return unexamined("name")
    if seen.stage == "name":
        remedy = "Check the spelling in `server`, the resolver (/etc/resolv.conf), and whether a VPN must be up."
        return Finding("name", "fail", f"{host} has no address: {words(seen.error)}", remedy, "OF136")
    return Finding("name", "ok", f"{host} is {', '.join(seen.addresses)}")


def reach_finding(config: ClientConfig, seen: Probe) -> Finding:
    """Whether the coordinator answers, and what stops it."""
    if seen.stage in ("proxy", "name"):
        return unexamined("coordinator")
    if seen.stage in ("done", "tls"):
        return _answered(config, seen)
    why, remedy = _stopped(config, seen)
    return Finding("coordinator", "fail", why, remedy, "OF136")


def _answered(config: ClientConfig, seen: Probe) -> Finding:
    if seen.stage == "tls":
        return Finding("coordinator", "ok", f"{config.server} takes connections; TLS stops them, see there")
    if seen.status == 200:
        return Finding("coordinator", "ok", f"{config.server} is healthy")
    what = f"{config.server}/health answers {seen.status}"
    if seen.status == 407:
        return Finding("coordinator", "fail", f"{what}: {_login(seen)[0]}", _login(seen)[1], "OF136")
    if seen.status in (502, 503, 504):
        remedy = "The reverse proxy runs, the coordinator behind it does not: ask the operator to start omnifed-server."
    else:
        remedy = "Something else listens there: check host and port, and the path that the reverse proxy publishes."
    return Finding("coordinator", "fail", what, remedy, "OF136")


def _stopped(config: ClientConfig, seen: Probe) -> tuple[str, str]:
    """What an operator would call the failure, and what to do about it."""
    first, error = seen.proxy or config.server, seen.error
    who = "proxy" if seen.proxy else "coordinator"
    if isinstance(error, ConnectionRefusedError):
        return (
            f"{first} refuses connections: the machine is there, nothing listens at this port",
            f"Start the {who} (omnifed-server), or correct the port."
            if not seen.proxy
            else "Correct the proxy's port.",
        )
    if isinstance(error, TimeoutError) and seen.stage == "connect":
        return (
            f"{first} does not answer (time-out)",
            f"A firewall drops the packets, or the machine is off: outbound TCP to port {first.rpartition(':')[2]} "
            f"of the {who} must be open.",
        )
    if seen.proxy and "Tunnel connection failed" in str(error):
        if " 407" in str(error):
            return _login(seen)
        return f"the proxy {seen.proxy} refuses the way: {error}", f"Ask for {config.server} to be allowed there."
    if seen.stage == "http":
        return (
            f"{config.server} takes the connection, but gives no HTTP answer: {words(error)}",
            "Plain HTTP met a TLS port: remove insecure."
            if config.insecure
            else "Something else listens there, or a proxy cuts it: check host and port.",
        )
    return f"{first}: {words(error)}", "Check cable, VPN and routing to that address."


def _login(seen: Probe) -> tuple[str, str]:
    return (
        f"the proxy {seen.proxy} wants a login",
        "Write it into the variable (http://USER:PASSWORD@HOST:PORT), or have the coordinator's host allowed without.",
    )


def clock_finding(seen: Probe) -> Finding:
    """Whether this machine's clock agrees with the coordinator's."""
    if seen.ahead_s is None:
        return unexamined("clock")
    ahead = seen.ahead_s
    what = f"{abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} the coordinator"
    remedy = "Switch on time synchronisation, for example: timedatectl set-ntp true (or chrony), and try again."
    if ahead > CLOCK_AHEAD_S or -ahead > CLOCK_BEHIND_S:
        return Finding("clock", "fail", f"{what}: it does not accept this site's signature", remedy, "OF135")
    if abs(ahead) > CLOCK_WARN_S:
        return Finding("clock", "warn", what, remedy, "OF135")
    return Finding("clock", "ok", what)


def standing_findings(config: ClientConfig, seen: Probe) -> list[Finding]:
    """What the coordinator says of this site; nothing without identity, or before the site has joined."""
    if config.insecure or not (config.identity / "kit.json").is_file():
        return []
    if seen.stage != "done":
        return [unexamined("membership")]
    try:
        answer = ask(config, SiteIdentity.load(config.identity))
    except OmniFedError as error:
        return [Finding("membership", "fail", error.seen, error.remedy, error.code)]
    standing = standing_of(answer)
    if standing is None:
        remedy = "503: the roster has expired, the coordinator's operator runs omnifed-server rotate; 404: the address "
        remedy += "is no coordinator of a federation, or a proxy on the way does not publish /v1/standing/."
        return [Finding("membership", "warn", f"the coordinator answers {answer.status}", remedy, "OF136")]
    if standing == "member":
        return [Finding("membership", "ok", f"{config.server} knows this site's key")]
    refusal = refused(standing, config.server)
    return [Finding("membership", "fail", refusal.seen, refusal.remedy, refusal.code)]
