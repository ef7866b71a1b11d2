"""The site's Flower application: hands each task to the worker process and waits for its answer. Loads no torch."""

from __future__ import annotations

import os
import socket
import time
from multiprocessing.connection import Connection
from pathlib import Path

from safetensors.numpy import load, save

from omnifed.errors import OmniFedError
from omnifed.federation.replies import REPLY, Reply
from omnifed.federation.tasks import Task
from omnifed.states import State
from omnifed.transport.apps import client_app
from omnifed.transport.site_seal import SiteSeal
from omnifed.trust.audit import AuditLog
from omnifed_client.config import ClientConfig
from omnifed_client.guarded import identity_of

WORKER = "OMNIFED_WORKER"
"""Environment variable: socket of the worker."""
RESTART_S = 60.0
"""A worker that was killed is started again within this time."""


class WorkerExecutor:
    """The worker's executor, from another process.

    Args:
        path: its Unix socket.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def execute(self, task: Task, state: State) -> tuple[Reply, State]:
        """Sends a task to the worker and waits for as long as it works.

        Raises:
            OmniFedError: OF521 if there is no worker, OF517 if it ended without an answer.
        """
        with self._connect() as worker:
            try:
                worker.send_bytes(task.model_dump_json().encode())
                worker.send_bytes(save(state))
                return REPLY.validate_json(worker.recv_bytes()), load(worker.recv_bytes())
            except (EOFError, OSError):
                raise OmniFedError(
                    "OF517",
                    "The process of a task must live until its reply.",
                    remedy="See worker.log in the site's state folder; often the memory was too small.",
                ) from None

    def _connect(self) -> Connection:
        until = time.monotonic() + RESTART_S
        while True:
            link = socket.socket(socket.AF_UNIX)
            try:
                link.connect(str(self.path))
                return Connection(link.detach())
            except OSError:
                link.close()
                if time.monotonic() >= until:
                    raise OmniFedError(
                        "OF521",
                        "A site's worker must run while its node is connected.",
                        remedy="See worker.log in the site's state folder and start omnifed-client again.",
                    ) from None
                time.sleep(0.5)


def _guard() -> SiteSeal | None:
    """Checks and signs where the site has an identity; its supervisor keeps the configuration beside the socket."""
    file = Path(os.environ[WORKER]).with_name("config.json")
    config = ClientConfig.model_validate_json(file.read_bytes())
    identity = identity_of(config)
    return SiteSeal(identity, AuditLog.of(config.state, identity)) if identity else None


app = client_app(lambda site: WorkerExecutor(Path(os.environ[WORKER])), lambda site: _guard())
