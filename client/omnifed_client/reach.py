"""Reaches for the coordinator by the route that Flower's node would take, and says where on it things stop.

Nothing is sent but ``GET /health``, and the question what this site's public key is to the federation. The route: proxy
if the environment names one, name, TCP, TLS, HTTP.
"""

from __future__ import annotations

import base64
import http.client
import importlib.util
import os
import socket
import ssl
import time
import urllib.request
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Literal
from urllib.parse import SplitResult, unquote, urlsplit

from omnifed_client.addresses import is_loopback
from omnifed_client.config import ClientConfig

TIMEOUT_S = 4.0
"""For each step: an answer that takes longer is no base for a federation either."""
Stage = Literal["proxy", "name", "connect", "tls", "http", "done"]


@dataclass
class Probe:
    """How far one attempt came.

    Attributes:
        stage: the step that failed, or ``done``.
        error: why it failed.
        proxy: host and port of the proxy on the way, without its password; "" for none.
        addresses: what the first host's name resolved to.
        status: of the answer; 0 for none.
        body: of the answer, at most 1000 bytes.
        ahead_s: seconds that this machine's clock is ahead of the Date in the answer; None without one.
        certificate: the coordinator's, as :meth:`ssl.SSLSocket.getpeercert` gives it; empty where it is not readable.
    """

    stage: Stage = "proxy"
    error: Exception | None = None
    proxy: str = ""
    addresses: tuple[str, ...] = ()
    status: int = 0
    body: bytes = b""
    ahead_s: float | None = None
    certificate: dict[str, Any] = field(default_factory=dict)


def proxy_for(config: ClientConfig) -> str:
    """URL of the proxy that Flower's HTTP library takes to the coordinator, or "".

    As httpx: HTTPS_PROXY or HTTP_PROXY by the scheme, else ALL_PROXY, unless NO_PROXY names the host.
    """
    proxies = urllib.request.getproxies_environment()
    url = proxies.get(config.scheme) or proxies.get("all") or ""
    if not url or is_loopback(config.host) or urllib.request.proxy_bypass(config.host):
        return ""
    return url if "://" in url else f"http://{url}"


def trust(config: ClientConfig) -> ssl.SSLContext:
    """The authorities that Flower's node will trust: the configured file or the kit's, else certifi's list as httpx.

    Raises:
        OSError: if the file cannot be read.
        ssl.SSLError: if it holds no certificate.
        UnicodeDecodeError: if it is not ASCII, which Flower does not take.
    """
    if config.roots:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=Path(config.roots).read_bytes().decode("ascii"))
        return context
    if file := os.environ.get("SSL_CERT_FILE"):
        return ssl.create_default_context(cafile=file)
    if folder := os.environ.get("SSL_CERT_DIR"):
        return ssl.create_default_context(capath=folder)
    if importlib.util.find_spec("certifi"):
        import certifi

        return ssl.create_default_context(cafile=certifi.where())
    return ssl.create_default_context()


def probe(config: ClientConfig, context: ssl.SSLContext | None, path: str = "/health") -> Probe:
    """Goes the way to the coordinator once. Never raises.

    Args:
        config: of the client.
        context: for TLS; None speaks plain HTTP.
        path: what is asked for.
    """
    seen = Probe()
    connection: http.client.HTTPConnection | None = None
    try:
        connection = _start(config, seen)
        if context is not None:
            seen.stage = "tls"
            connection.sock = secured = context.wrap_socket(connection.sock, server_hostname=config.host)
            seen.certificate = dict(secured.getpeercert() or {})
        seen.stage = "http"
        _ask(config, connection, seen, path, plain=context is None)
        seen.stage = "done"
    except (OSError, http.client.HTTPException, ValueError) as error:
        seen.error = error
    finally:
        if connection:
            connection.close()
    return seen


def _start(config: ClientConfig, seen: Probe) -> http.client.HTTPConnection:
    """Opens TCP to the coordinator, or through the proxy to it."""
    proxy = urlsplit(proxy_for(config))
    host, port = config.host, config.port
    if proxy.netloc:
        seen.proxy = f"{proxy.hostname}:{proxy.port or 80}"
        if proxy.scheme != "http":
            raise ValueError(f"a proxy of the kind {proxy.scheme}:// cannot be tried out here")
        host, port = proxy.hostname or "", proxy.port or 80
    seen.stage = "name"
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    seen.addresses = tuple(dict.fromkeys(str(entry[4][0]) for entry in found))
    seen.stage = "connect"
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
    if proxy.netloc and config.scheme == "https":
        connection.set_tunnel(config.host, config.port, headers=_credentials(proxy))
    connection.connect()
    return connection


def _ask(config: ClientConfig, connection: http.client.HTTPConnection, seen: Probe, path: str, *, plain: bool) -> None:
    through = plain and bool(seen.proxy)
    headers = {"Host": config.server, "Connection": "close"}
    if through:
        headers |= _credentials(urlsplit(proxy_for(config)))
    sent = time.time()
    connection.request("GET", f"http://{config.server}{path}" if through else path, headers=headers)
    answer = connection.getresponse()
    middle = (sent + time.time()) / 2
    seen.status, seen.body = answer.status, answer.read(1000)
    if date := answer.getheader("Date"):
        # The header counts whole seconds: on average it is half a second old.
        seen.ahead_s = middle - parsedate_to_datetime(date).timestamp() - 0.5


def _credentials(proxy: SplitResult) -> dict[str, str]:
    if not proxy.username:
        return {}
    pair = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": "Basic " + base64.b64encode(pair.encode()).decode()}


def unverified() -> ssl.SSLContext:
    """Trusts anybody: to read the clock behind a certificate that does not verify. Never for anything that counts."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def presented(config: ClientConfig) -> dict[str, Any]:
    """The certificate that the coordinator shows, though it does not verify; empty where it cannot be read.

    The standard library decodes a verified certificate only. So it is fetched, and then taken as its own authority.
    """
    fetch = unverified()
    try:
        connection = _start(config, Probe())
        with fetch.wrap_socket(connection.sock, server_hostname=config.host) as secured:
            der = secured.getpeercert(binary_form=True) or b""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        context.load_verify_locations(cadata=der)
    except (OSError, http.client.HTTPException, ValueError):
        return {}
    return probe(config, context).certificate


def words(error: Exception | None) -> str:
    """What an operator reads of an error: no class names, no error numbers."""
    if isinstance(error, TimeoutError):
        return "time-out"
    return str(getattr(error, "strerror", None) or error or type(error).__name__)
