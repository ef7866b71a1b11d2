"""Addresses of coordinators: HOST:PORT, and which of them stay on this machine."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit


def split_address(server: str) -> tuple[str, int]:
    """Host and port of HOST:PORT; ("", 0) where it is none."""
    try:
        url = urlsplit(f"//{server}")
        # Without this a whole URL or a path would pass: Flower would then ask for https://https://...
        plain = url.netloc == server and "@" not in server
        return (url.hostname or "", url.port or 0) if plain else ("", 0)
    except ValueError:
        return "", 0


def is_loopback(host: str) -> bool:
    """Whether a host name or address stays on this machine; a name other than localhost is not looked up."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
