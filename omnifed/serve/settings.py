"""What the local page of `omnifed serve` permits."""

from __future__ import annotations

import ipaddress
import socket
from pathlib import Path
from typing import Annotated

from pydantic import Field

from omnifed.config import Frozen
from omnifed.errors import OmniFedError

MAX_FILES = 4096
"""Files of one job: a long CT series has about 2000."""


class ServeConfig(Frozen):
    """Settings of the page.

    Attributes:
        model: the exported model.
        host: address to listen on; loopback unless ``allow_remote``.
        port: TCP port, 0 for any free one.
        max_mb: largest upload of one job, all its files together, in MB (10^6 bytes).
        limit_s: longest prediction in seconds.
        allow_remote: other machines may connect. There is no log-in.
    """

    model: Path
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8640
    max_mb: Annotated[float, Field(gt=0)] = 512
    limit_s: Annotated[float, Field(gt=0)] = 300
    allow_remote: bool = False

    @property
    def max_bytes(self) -> int:
        """Largest upload of one job."""
        return int(self.max_mb * 1_000_000)


def listen(config: ServeConfig) -> socket.socket:
    """Opens the port.

    Raises:
        OmniFedError: OF651 another address than loopback without ``allow_remote``, OF652 the port cannot be opened.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM)[0]
        if not (config.allow_remote or ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback):
            raise OmniFedError(
                "OF651",
                "The page has no log-in: it listens on this machine only, unless other machines are permitted.",
                seen=f"--host {config.host}",
                remedy="Leave out --host, or add --allow-remote on a network where everyone may see every image.",
            )
        opened = socket.socket(family, kind)
        try:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            opened.bind(address)
            opened.listen(64)
        except BaseException:
            opened.close()
            raise
        return opened
    except OSError as error:
        raise OmniFedError(
            "OF652",
            "The port of the page must be free and permitted.",
            seen=f"{config.host}:{config.port}: {error.strerror or error}",
            remedy="Choose another --port (1024..65535), or 0 for any free one.",
        ) from None
