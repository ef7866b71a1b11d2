from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from omnifed.errors import OmniFedError
from omnifed.models.spec import StudentSpec
from omnifed.states import read_state
from omnifed.training.spec import TrainSpec
from omnifed.transport.apps import client_app
from omnifed.transport.inprocess import InProcessGrid
from omnifed.transport.pool import TaskPool
from omnifed_server.rounds import ArmConfig, run_arm
from omnifed_sim.emulation import Conditions, Emulation, VirtualClock
from omnifed_sim.ray_grid import RayGrid

SITES = ("a", "b", "c")


def config() -> ArmConfig:
    return ArmConfig(
        campaign="ray", name="fedbn", sites=SITES, student=StudentSpec(alpha=0.6, beta=0.5),
        train=TrainSpec(steps=2, lr=0.05), rounds=2, local_layers=("stem", "head", "norm"), channels=1,
    )  # fmt: skip


def test_a_factory_that_cannot_be_imported_is_named():
    with pytest.raises(OmniFedError, match="OF520") as caught:
        RayGrid("no_such_module:sites", {}, SITES, workers=1)
    assert "no_such_module" in caught.value.seen


@pytest.mark.slow
def test_ray_gives_the_weights_of_the_run_in_process(tmp_path, monkeypatch):
    toys = Path(__file__).parents[1] / "server"
    monkeypatch.setenv("PYTHONPATH", f"{toys}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.syspath_prepend(str(toys))
    import toy_sites

    torch.set_num_threads(1)
    here = InProcessGrid(client_app(toy_sites.learners(str(tmp_path / "here"))), SITES)
    expected = run_arm(TaskPool(here), config(), tmp_path / "run-here")
    grid = RayGrid("toy_sites:learners", {"folder": str(tmp_path / "there")}, SITES, workers=2)
    try:
        got = run_arm(TaskPool(grid), config(), tmp_path / "run-there")
        assert got.misses == ()
        one, two = read_state(expected.state)[0], read_state(got.state)[0]
        assert one.keys() == two.keys()
        for key, value in one.items():
            np.testing.assert_array_equal(value, two[key])
        grid.close()

        clock = VirtualClock(Emulation(seed=2, sites={"a": Conditions(dropout=1.0)}))
        faults = {"faults": {"b": "process"}}
        grid = RayGrid("toy_sites:drifts", faults, SITES, workers=3, schedule=clock)
        result = run_arm(TaskPool(grid), config().model_copy(update={"quorum": 0.3, "rounds": 1}), tmp_path / "faults")
        assert {m.site: m.code for m in result.misses} == {"a": "OF506", "b": "OF506"}
    finally:
        grid.close()
