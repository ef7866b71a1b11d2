"""An HTTP endpoint in the Prometheus text format, on loopback by default. No torch."""

from __future__ import annotations

import threading
from types import ModuleType, TracebackType
from typing import Any

from omnifed.errors import OmniFedError


class MetricsServer:
    """A running endpoint ``http://HOST:PORT/metrics``; made by :func:`serve_metrics`.

    Attributes:
        port: where it listens; the one that was found if 0 was asked for.
    """

    def __init__(self, server: Any, thread: threading.Thread) -> None:
        self.port: int = server.server_port
        self._server, self._thread = server, thread

    def close(self) -> None:
        """Stops listening and frees the port; a second call does nothing."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()

    def __enter__(self) -> MetricsServer:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def serve_metrics(port: int, collector: Any, host: str = "127.0.0.1") -> MetricsServer:
    """Serves what ``collector`` says, in a thread of its own, in a registry of its own.

    Args:
        port: TCP port, 0 for any free one.
        collector: has ``collect()``, which yields ``prometheus_client`` metric families on each request.
        host: address to listen on. Loopback: the figures are for the operator, and there is no log-in.

    Raises:
        OmniFedError: OF540 if the port cannot be opened, OF541 if ``prometheus_client`` is not installed.
    """
    prometheus = prometheus_client()
    registry = prometheus.CollectorRegistry(auto_describe=False)
    registry.register(collector)
    try:
        server, thread = prometheus.start_http_server(port, host, registry)
    except (OSError, OverflowError) as error:
        raise OmniFedError(
            "OF540",
            "The metrics port must be free and permitted.",
            seen=f"{host}:{port}: {getattr(error, 'strerror', None) or error}",
            remedy="Choose another metrics_port (1024..65535), or 0 for none.",
        ) from None
    return MetricsServer(server, thread)


def prometheus_client() -> ModuleType:
    """The package ``prometheus_client``, imported when it is first needed.

    Raises:
        OmniFedError: OF541 if it is not installed.
    """
    try:
        # exposition and metrics_core are part of it: one import serves all
        import prometheus_client
        import prometheus_client.core
    except ImportError:
        raise missing("prometheus_client", "prometheus-client") from None
    return prometheus_client


def missing(module: str, package: str) -> OmniFedError:
    """The error OF541 for an optional package that is not installed.

    Args:
        module: name that could not be imported.
        package: what to give to pip.
    """
    return OmniFedError(
        "OF541",
        "An option that is switched on needs its package.",
        seen=f"no module {module}",
        remedy=f"Install it (pip install {package}), or switch the option off.",
    )
