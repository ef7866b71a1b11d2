"""Private rounds between real processes with identities; a site is killed when its masked update is in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from harness import Federation
from twin import difference

from omnifed.config import load_toml
from omnifed.states import read_state
from omnifed.transport.apps import client_app
from omnifed.transport.inprocess import InProcessGrid
from omnifed.transport.pool import TaskPool
from omnifed.trust.identity import SiteIdentity
from omnifed_client.config import ClientConfig
from omnifed_client.executor import SiteExecutor
from omnifed_client.worker import site_data
from omnifed_server.campaign import run_campaign
from omnifed_server.federation_file import FederationConfig

SITES = ("north", "east", "south", "west")


def undisturbed(fed: Federation) -> dict[str, bytes]:
    """The coordinator's states after the same campaign in this process: other secrets, the same sums."""
    folder = fed.folder / "twin"

    def executor_of(site: str) -> SiteExecutor:
        config = ClientConfig(site=site, data=fed.data(site), state=folder / "state" / site)
        return SiteExecutor(site_data(config), config.state, identity=SiteIdentity.load(fed.state(site) / "identity"))

    config = load_toml(FederationConfig, fed.file).model_copy(update={"folder": str(folder / "run")})
    pool = TaskPool(InProcessGrid(client_app(executor_of), SITES))
    run_campaign(pool, config, folder / "run", lambda name, fields: None)
    return states(folder / "run")


def states(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in run.glob("arms/fedbn/*.safetensors")}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_site_killed_between_its_masked_update_and_unmask_changes_no_bit(tmp_path: Path) -> None:
    with Federation(
        tmp_path / "f", SITES, identity=True, aggregation="private", stages=["prepare", "train"], rounds=2
    ) as fed:
        fed.start()
        first = fed.wait_event(lambda e: e["event"] == "round", 240)["site"]
        fed.clients[first].kill()
        fed.clients[first].wait(20)
        fed.start_client(first)
        assert fed.finish(300) == 0
        records = [json.loads(path.read_bytes()) for path in sorted(fed.run.glob("arms/fedbn/round-*.json"))]
        assert [sorted(record["sites"]) for record in records] == [sorted(SITES)] * 2
        assert all(record["dice"] == {} and 0 <= record["mean"]["dice"] <= 1 for record in records)
        assert [fields["dice"] for fields in fed.events() if fields["event"] == "aggregate"] == [
            record["mean"]["dice"] for record in records
        ]
        assert not [e for e in fed.events() if e["event"] == "round" and ("dice" in e or "loss" in e or "n" in e)]
        assert difference(states(fed.run), undisturbed(fed)) == []
        for site in SITES:
            left = [path for path in fed.state(site).rglob("private/*") if path.suffix == ".sealed"]
            assert left == [], site
            held = {path.name for path in fed.state(site).glob("campaigns/*/arms/fedbn/private/*")}
            assert held == {"revealed.json"}
        assert read_state(fed.run / "arms" / "fedbn" / "round-0001.safetensors")[0]
