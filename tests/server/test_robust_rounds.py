"""A whole arm with one site that sends what it likes: left out, shortened or outvoted, and what is said of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import toy_sites

from omnifed.errors import OmniFedError
from omnifed.federation.tasks import FitTask
from omnifed.federation.validation import update_norm
from omnifed.models.spec import StudentSpec
from omnifed.states import State, read_state
from omnifed.training.spec import TrainSpec
from omnifed.transport.apps import client_app
from omnifed.transport.inprocess import InProcessGrid
from omnifed.transport.pool import TaskPool
from omnifed_client.travel import leaving
from omnifed_server.rounds import ArmConfig, ArmResult, run_arm

SITES = ("a", "b", "c", "d")
SMALL = StudentSpec(alpha=0.6, beta=0.5)


class Attacker(toy_sites.Drift):
    """Sends its update a hundred times; in the other rounds it is as honest as the others."""

    def __init__(self, site: str, rounds: tuple[int, ...] = (0,), accepted: bool = True) -> None:
        super().__init__(site)
        self.rounds, self.accepted = rounds, accepted

    def execute(self, task, state):
        reply, upload = super().execute(task, state)
        if isinstance(task, FitTask):
            reply = reply.model_copy(update={"accepted": self.accepted})
            if task.round in self.rounds:
                upload = {k: (state[k] + 100 * (v - state[k])).astype(v.dtype) for k, v in upload.items()}
        return reply, upload


def config(**values) -> ArmConfig:
    base = {
        "campaign": "test", "name": "fedbn", "sites": SITES, "student": SMALL, "train": TrainSpec(steps=1, lr=0.05),
        "rounds": 1, "local_layers": ("stem", "head", "norm"), "channels": 1, "weighting": "equal",
    }  # fmt: skip
    return ArmConfig.model_validate(base | values)


def run(folder: Path, attackers=("b",), events=None, make=Attacker, **values) -> ArmResult:
    settings = config(**values)
    sites = {site: make(site) if site in attackers else toy_sites.Drift(site) for site in settings.sites}
    pool = TaskPool(InProcessGrid(client_app(sites.__getitem__), settings.sites), poll_s=0.01)
    note = (lambda name, fields: events.append((name, fields))) if events is not None else (lambda name, fields: None)
    return run_arm(pool, settings, folder, on_event=note)


def final(result: ArmResult) -> State:
    return read_state(result.state)[0]


def distance(one: State, other: State) -> float:
    return update_norm(one, other)


@pytest.fixture(scope="module")
def honest(tmp_path_factory) -> State:
    return final(run(tmp_path_factory.mktemp("honest"), attackers=()))


@pytest.fixture(scope="module")
def without_b(tmp_path_factory) -> State:
    return final(run(tmp_path_factory.mktemp("three"), attackers=(), sites=("a", "c", "d")))


def test_a_site_that_sends_a_hundred_times_its_update_is_left_out_and_shown(tmp_path, without_b):
    events = []
    result = run(tmp_path, events=events)
    assert [(m.site, m.code, m.round) for m in result.misses] == [("b", "OF860", 0)]
    for key, value in without_b.items():
        np.testing.assert_array_equal(final(result)[key], value)
    (miss,) = [fields for name, fields in events if name == "miss"]
    assert (miss["site"], miss["code"]) == ("b", "OF860")
    record = json.loads((tmp_path / "round-0000.json").read_text())
    assert sorted(record["dice"]) == ["a", "c", "d"]
    assert record["norm"] == pytest.approx(
        np.median([f["norm"] for n, f in events if n == "round" and f["site"] != "b"])
    )


def test_it_is_asked_again_in_the_next_round(tmp_path):
    events = []
    result = run(tmp_path, events=events, rounds=2)
    assert [(m.site, m.round) for m in result.misses] == [("b", 0)]
    assert [f["round"] for n, f in events if n == "round" and f["site"] == "b"] == [0, 1]


def test_without_it_a_quorum_of_all_is_not_there_however_often_it_is_asked(tmp_path):
    with pytest.raises(OmniFedError, match="OF509") as caught:
        run(tmp_path, quorum=1.0)
    assert "b (OF860)" in caught.value.seen


@pytest.mark.parametrize("rule", ["norm-clip", "median"])
def test_in_robust_mode_it_stays_and_moves_the_average_little(tmp_path, honest, rule):
    result = run(tmp_path, aggregation={"mode": "robust", "rule": rule})
    assert result.misses == ()
    start = read_state(tmp_path / "start.safetensors")[0]
    assert distance(final(result), honest) < distance(honest, start)


@pytest.mark.parametrize("wire", ["bf16", "int8-delta"])
def test_a_coded_update_is_as_long_as_it_is(tmp_path, wire):
    class Coded(Attacker):
        def execute(self, task, state):
            reply, upload = super().execute(task, state)
            return reply, leaving(task, upload, state, {}).arrays if isinstance(task, FitTask) else upload

    class Honest(Coded):
        def __init__(self, site):
            super().__init__(site, rounds=())

    # The whole state travels down in fp32 for a first round of bf16: a site codes against what it got.
    settings = config(wire=wire)
    sites = {site: (Coded if site == "b" else Honest)(site) for site in SITES}
    held = {}

    class Decoding:
        def __init__(self, site):
            self.inner, self.site = sites[site], site

        def execute(self, task, state):
            from omnifed.federation.wire import decode

            if isinstance(task, FitTask):
                state = decode(state, wire) if wire == "bf16" or task.base is not None else state
                held[self.site] = state
            return self.inner.execute(task, state)

    pool = TaskPool(InProcessGrid(client_app(Decoding), SITES), poll_s=0.01)
    result = run_arm(pool, settings, tmp_path)
    assert [(m.site, m.code) for m in result.misses] == [("b", "OF860")]


def test_a_resumed_coordinator_leaves_out_the_same_site(tmp_path, without_b):
    class StopError(Exception):
        pass

    def stop(name, fields):
        if name == "miss":
            raise StopError

    settings = config()
    sites = {site: Attacker(site) if site == "b" else toy_sites.Drift(site) for site in SITES}
    with pytest.raises(StopError):
        run_arm(
            TaskPool(InProcessGrid(client_app(sites.__getitem__), SITES), poll_s=0.01),
            settings,
            tmp_path,
            on_event=stop,
        )
    result = run(tmp_path)
    assert [(m.site, m.code) for m in result.misses] == [("b", "OF860")]
    for key, value in without_b.items():
        np.testing.assert_array_equal(final(result)[key], value)
