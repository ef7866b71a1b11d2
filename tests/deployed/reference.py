"""The same federation without processes, network and faults: what every disturbed run must end with, bit for bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from harness import Federation

from omnifed.events import EventLog
from omnifed.transport.apps import client_app
from omnifed.transport.inprocess import InProcessGrid
from omnifed.transport.pool import TaskPool
from omnifed_client.config import load_client
from omnifed_client.executor import SiteExecutor
from omnifed_client.worker import site_data
from omnifed_server.campaign import run_campaign
from omnifed_server.federation_file import load_federation


class References:
    """Undisturbed runs, each made once.

    Args:
        folder: of this test session.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._made: dict[str, dict[str, bytes]] = {}

    def of(self, federation: Federation) -> dict[str, bytes]:
        """Final files of the same settings."""
        settings = {key: value for key, value in federation.settings.items() if key != "port"}
        key = json.dumps(settings, sort_keys=True)
        if key not in self._made:
            self._made[key] = _run(Federation(self.folder / str(len(self._made)), **settings))
        return self._made[key]


def _run(federation: Federation) -> dict[str, bytes]:
    def executor(site: str) -> Any:
        config = load_client(site, data=federation.data(site), state=federation.state(site))
        return SiteExecutor(site_data(config), config.state)

    pool = TaskPool(InProcessGrid(client_app(executor), federation.sites), poll_s=0.0)
    log = EventLog(federation.run / "events.jsonl")
    run_campaign(pool, load_federation(federation.file), federation.run, log.add)
    return federation.final()
