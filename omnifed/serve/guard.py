"""What holds for every request: whom it is for, where it comes from, and what a browser may do with the answer."""

from __future__ import annotations

import ipaddress
import socket
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from omnifed.errors import OmniFedError

SAFE = ("GET", "HEAD")
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob:; object-src 'none'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class Guard:
    """ASGI middleware.

    A page of another site may not use this one: its name may point here (DNS rebinding), so ``Host`` must be an address
    or a name of this machine; its scripts may post here, so ``Origin`` must be this page where a browser sends one. No
    answer carries CORS headers.

    Args:
        app: what is guarded.
        host: address that the page listens on.
        remote: other machines are permitted.
    """

    def __init__(self, app: ASGIApp, host: str, remote: bool) -> None:
        self.app, self.remote = app, remote
        self.names = {"localhost"}
        if remote:
            self.names |= {host.lower(), socket.gethostname().lower(), socket.getfqdn().lower()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request, or refuses it with OF655."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        seen = self.fault(scope["method"], Headers(scope=scope))
        app = self.app if not seen else problem(_refused(seen), 403)
        await app(scope, receive, answer)

    def fault(self, method: str, headers: Headers) -> str:
        """Which header is wrong; empty if none is."""
        host = headers.get("host", "")
        if not self._ours(host):
            return f"Host: {host[:100]}"
        origin = headers.get("origin")
        if method not in SAFE and origin is not None and origin.lower() != f"http://{host.lower()}":
            return f"Origin: {origin[:100]}"
        return ""

    def _ours(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
            # An address, unlike a name, cannot be made to point here by another site.
            return name in self.names or ipaddress.ip_address(name).is_loopback or self.remote
        except ValueError:
            return False


def problem(error: OmniFedError, status: int) -> JSONResponse:
    """An error as the page shows it: number, rule, what was seen, remedy."""
    body = {"code": error.code, "rule": error.rule, "seen": error.seen, "remedy": error.remedy}
    return JSONResponse({"error": body}, status)


def _refused(seen: str) -> OmniFedError:
    return OmniFedError(
        "OF655",
        "A request must name this machine and come from its own page.",
        seen=seen,
        remedy="Open the address that omnifed serve printed.",
    )
