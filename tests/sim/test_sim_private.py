"""`omnifed-sim --aggregation private`: identities of its own, and rounds that are those of the plain mean."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from omnifed.errors import OmniFedError
from omnifed.events import EventLog
from omnifed.states import read_state
from omnifed.transport.pool import TaskPool
from omnifed_sim.campaign import Campaign
from omnifed_sim.config import SimConfig
from omnifed_sim.console import Screen
from omnifed_sim.identities import make_identities
from omnifed_sim.run import _grid
from omnifed_sim.run_folder import open_run
from omnifed_sim.sites import check_promises_with, prepare_sites, site_folders

NAMES = ("north", "east", "south")
BASE = {
    "preset": "hospitals", "sites": NAMES, "phantom_scale": 0.1, "arms": ("fedbn",), "rounds": 1, "steps": 1,
    "image_size": 32, "student": {"alpha": 0.6, "beta": 0.5, "stem_stride": 2},
}  # fmt: skip


def train(folder: Path, **values) -> Path:
    """The arms of a simulation, without scores, exports and report."""
    config, screen = open_run(folder, SimConfig.model_validate({**BASE, **values})), Screen()
    folders = site_folders(config, folder, screen.progress_of("phantoms"))
    sites = prepare_sites(folders, config, folder, screen.progress_of)
    private = config.aggregation.mode == "private"
    identity = make_identities(folder, sites) if private else None
    campaign = Campaign(config, folder, sites, "fp32", EventLog(folder / "events.jsonl"), screen, identity)
    campaign.run(TaskPool(_grid(config, folder, sites, screen), poll_s=0.01))
    return folder


def test_a_private_simulation_is_the_plain_one_without_its_figures(tmp_path: Path) -> None:
    how = {"mode": "private", "clip": 10.0}  # the coarser steps of a larger clip show in weights of so few cases
    private, plain = train(tmp_path / "private", aggregation=how), train(tmp_path / "plain")
    states = [read_state(folder / "arms" / "fedbn" / "round-0000.safetensors")[0] for folder in (private, plain)]
    for key, value in states[1].items():
        np.testing.assert_allclose(states[0][key], value, atol=1e-6)
    record = json.loads((private / "arms" / "fedbn" / "round-0000.json").read_bytes())
    seen = json.loads((plain / "arms" / "fedbn" / "round-0000.json").read_bytes())
    assert record["dice"] == {}
    assert min(seen["dice"].values()) - 1e-6 <= record["mean"]["dice"] <= max(seen["dice"].values()) + 1e-6
    assert set(record["mean"]["loss"]) == {"total", "ce", "dice"}
    events = [json.loads(line) for line in (private / "events.jsonl").read_text().splitlines()]
    assert not [e for e in events if e["event"] == "round" and {"dice", "loss", "n"} & e.keys()]
    assert next(e for e in events if e["event"] == "aggregate")["dice"] == record["mean"]["dice"]
    assert {path.parent.parent.name for path in private.glob("sites/*/state/identity")} == set(NAMES)
    files = sorted([*private.glob("identity/*.key"), *private.glob("sites/*/state/identity/*.key")])
    before = [path.read_bytes() for path in files]
    make_identities(private, NAMES)
    assert [path.read_bytes() for path in files] == before  # a resumed run keeps its federation


@pytest.mark.parametrize(
    ("values", "sites", "why"),
    [({}, ("north", "east"), "3 sites"), ({"wire": "bf16"}, NAMES, "fp32")],
)
def test_what_cannot_be_private_is_said_before_anything_is_asked(values, sites, why) -> None:
    config = SimConfig.model_validate({**BASE, "aggregation": "private", **values})
    with pytest.raises(OmniFedError, match=why) as caught:
        check_promises_with(config, len(sites))
    assert caught.value.code == "OF102"
