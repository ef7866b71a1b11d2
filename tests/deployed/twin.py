"""The same campaign without processes, networks and faults: what a federation must end with whatever happened to it."""

from __future__ import annotations

from pathlib import Path

from harness import Federation

from omnifed.config import load_toml
from omnifed.transport.apps import client_app
from omnifed.transport.inprocess import InProcessGrid
from omnifed.transport.pool import TaskPool
from omnifed_client.config import ClientConfig
from omnifed_client.executor import SiteExecutor
from omnifed_client.worker import site_data
from omnifed_server.campaign import run_campaign
from omnifed_server.federation_file import FederationConfig


def twin(federation: Federation, sites: tuple[str, ...] = ()) -> dict[str, bytes]:
    """What :meth:`harness.Federation.final` gives after an undisturbed run of the same campaign.

    Args:
        federation: that was started at least.
        sites: that the campaign shall have; by default those of the federation.
    """
    folder = federation.folder / "twin"
    sites = sites or federation.sites

    def executor_of(site: str) -> SiteExecutor:
        config = ClientConfig(site=site, data=federation.data(site), state=folder / "state" / site)
        return SiteExecutor(site_data(config), config.state)

    changed = {"sites": sites, "folder": str(folder / "run"), "quorum": 1.0}
    config = load_toml(FederationConfig, federation.file).model_copy(update=changed)
    pool = TaskPool(InProcessGrid(client_app(executor_of), sites))
    run_campaign(pool, config, folder / "run", lambda name, fields: None)
    other = Federation.__new__(Federation)
    other.folder, other.sites, other.run = folder, sites, folder / "run"
    return other.final()


def difference(found: dict[str, bytes], expected: dict[str, bytes]) -> list[str]:
    """Names of files that are not the same in both."""
    return sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))


def folder_size(folder: Path) -> int:
    """Bytes of all files."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
