from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
import toy_sites

from omnifed.distill.spec import DistillSpec
from omnifed.errors import OmniFedError
from omnifed.federation.aggregation import weight
from omnifed.federation.replies import FailedReply, FitReply
from omnifed.federation.tasks import HelloTask
from omnifed.federation.wire import SCALES
from omnifed.models.scaling import architecture_key
from omnifed.models.slices import slice_map, state_shapes, take
from omnifed.models.spec import StudentSpec
from omnifed.states import add_prefix, read_state, strip_prefix
from omnifed.teachers.spec import TeacherSpec
from omnifed.training.spec import TrainSpec
from omnifed.transport.apps import client_app
from omnifed.transport.inprocess import InProcessGrid
from omnifed.transport.pool import TaskPool
from omnifed_client.store import SiteStore
from omnifed_client.travel import arrived, leaving
from omnifed_server.rounds import ArmConfig, ArmResult, run_arm

SMALL = StudentSpec(alpha=0.6, beta=0.5)
SITES = ("a", "b", "c")


def config(**values) -> ArmConfig:
    base = {
        "campaign": "test", "name": "fedbn", "sites": SITES, "student": SMALL, "train": TrainSpec(steps=1, lr=0.05),
        "rounds": 2, "local_layers": ("stem", "head", "norm"), "channels": 1,
    }  # fmt: skip
    return ArmConfig.model_validate(base | values)


def pool(executor_of, sites=SITES, schedule=None) -> TaskPool:
    return TaskPool(InProcessGrid(client_app(executor_of), sites, schedule=schedule), poll_s=0.01)


def run(folder: Path, faults=None, events=None, **values) -> ArmResult:
    note = (lambda name, fields: events.append((name, fields))) if events is not None else (lambda name, fields: None)
    settings = config(**values)
    return run_arm(pool(toy_sites.drifts(faults), settings.sites), settings, folder, on_event=note)


class Wired(toy_sites.Drift):
    """Drift behind the site's real end of the wire, its state on disk."""

    def __init__(self, site: str, folder: Path, forgets: int = -1, absent: int = -1, doubles: bool = False) -> None:
        super().__init__(site)
        self.folder, self.store = folder / site, SiteStore(folder / site)
        self.forgets, self.absent, self.doubles = forgets, absent, doubles
        self.seen: list[tuple[int, int | None]] = []

    def execute(self, task, state):
        if isinstance(task, HelloTask):
            return super().execute(task, state)
        self.seen.append((task.round, task.base))
        if task.round == self.absent:
            raise ValueError("absent")
        if task.round == self.forgets:
            for path in self.folder.rglob("held-*"):
                path.unlink()
        done = self.store.finished(task)
        if done:
            return done
        try:
            held = arrived(task, state, self.store)
        except OmniFedError as error:
            return FailedReply(id=task.id, site=self.site, code=error.code, rule=error.rule), {}
        reply, upload = super().execute(task, held)
        last = self.store.last_round(task.arm, before=task.round)
        own = self.store.load_round(task.arm, last)[0] if last is not None else {}
        sent = leaving(task, upload, held, strip_prefix("lost", own))
        none = {"adopted_round": -1, "previous_adopted_round": -1}
        self.store.save_round(task.arm, task.round, add_prefix("lost", sent.lost), none)
        self.store.finish(task, reply, sent.arrays)
        return reply, sent.arrays


def run_wired(folder: Path, events=None, special=None, **values) -> tuple[ArmResult, dict[str, Wired]]:
    settings = config(**values)
    sites = {site: Wired(site, folder / "sites", **(special or {}).get(site, {})) for site in settings.sites}
    note = (lambda name, fields: events.append((name, fields))) if events is not None else (lambda name, fields: None)
    return run_arm(pool(sites.__getitem__, settings.sites), settings, folder / "arm", on_event=note), sites


def final(result: ArmResult) -> dict[str, np.ndarray]:
    return read_state(result.state)[0]


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def healthy(tmp_path_factory):
    """Global state after one round of three sites."""
    return final(run(tmp_path_factory.mktemp("healthy"), rounds=1))


@pytest.fixture(scope="module")
def without_b(tmp_path_factory):
    """Global state after one round of a and c."""
    return final(run(tmp_path_factory.mktemp("two"), rounds=1, sites=("a", "c")))


def test_one_round_is_the_weighted_mean_of_what_the_sites_sent(tmp_path):
    result = run(tmp_path / "arm", rounds=1, weighting="sqrt")
    start = read_state(tmp_path / "arm" / "start.safetensors")[0]
    got = final(result)
    key = next(k for k, v in start.items() if v.ndim == 4)
    shares = {site: weight(toy_sites.cases(site), "sqrt") for site in SITES}
    expected = np.zeros(start[key].shape)
    for site in SITES:
        task = config(rounds=1).task(0, site, {})
        expected += shares[site] / sum(shares.values()) * toy_sites.Drift(site).execute(task, start)[1][key]
    np.testing.assert_allclose(got[key], expected, rtol=1e-5, atol=1e-6)
    assert got.keys() == start.keys()
    assert not any(".norm" in k or k.startswith(("stem", "head")) for k in got)


def test_real_students_learn_together_and_keep_their_norms(tmp_path):
    executors = {
        site: toy_sites.Learner(site, tmp_path / "sites", channels)
        for site, channels in zip("abc", (1, 3, 1), strict=True)
    }
    events = []
    result = run_arm(
        pool(executors.__getitem__), config(), tmp_path / "arm", on_event=lambda name, e: events.append((name, e))
    )
    shared = final(result)
    states = {site: read_state(tmp_path / "sites" / site / "fedbn-1.safetensors")[0] for site in SITES}
    key = next(k for k, v in shared.items() if v.ndim == 4)
    low, high = (
        np.minimum.reduce([s[key] for s in states.values()]),
        np.maximum.reduce([s[key] for s in states.values()]),
    )
    assert (low - 1e-6 <= shared[key]).all()
    assert (shared[key] <= high + 1e-6).all()
    assert not np.array_equal(states["a"][key], states["b"][key])
    stems = {site: next(v for k, v in s.items() if k.startswith("stem") and v.ndim == 4) for site, s in states.items()}
    assert [stems[site].shape[1] for site in SITES] == [1, 3, 1]
    assert not np.array_equal(stems["a"], stems["c"])
    assert [name for name, _ in events] == ["round", "round", "round", "aggregate"] * 2
    assert events[0][1]["bytes_up"] > 4 * sum(v.size for v in shared.values() if v.dtype == np.float32)
    json.dumps(events)


def test_sites_alone_send_and_get_nothing(tmp_path):
    executors = {site: toy_sites.Learner(site, tmp_path / "sites") for site in SITES}
    result = run_arm(pool(executors.__getitem__), config(name="local", aggregate=False), tmp_path / "arm")
    assert result.state is None
    assert result.rounds == 2
    assert result.bytes_up < 5_000
    assert not list((tmp_path / "arm").glob("*.safetensors"))


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ("raises", "OF516"), ("nan", "OF505"), ("nan-figure", "OF505"), ("shape", "OF507"), ("missing", "OF507"),
        ("other", "OF504"), ("impostor", "OF504"),
    ],
)  # fmt: skip
def test_a_faulty_site_is_a_counted_miss(tmp_path, fault, code, without_b):
    events = []
    result = run(tmp_path / "arm", {"b": fault}, events, rounds=1)
    assert [(m.round, m.site, m.code) for m in result.misses] == [(0, "b", code)]
    told = [fields for name, fields in events if name == "miss"]
    assert len(told) == 1
    assert "Müller" not in json.dumps(told, ensure_ascii=False)
    assert_same(final(result), without_b)


def test_misses_are_counted_round_by_round(tmp_path):
    result = run(tmp_path / "arm", {"b": "raises"})
    assert [(m.round, m.site) for m in result.misses] == [(0, "b"), (1, "b")]
    assert result.rounds == 2


def test_a_late_site_is_a_miss_and_has_been_waited_for(tmp_path):
    result = run(tmp_path / "arm", {"c": "slow"}, rounds=1, deadline_s=0.25)
    assert [(m.site, m.code) for m in result.misses] == [("c", "OF502")]
    assert result.virtual_seconds == 0.25


def test_a_site_that_is_not_connected_is_a_miss(tmp_path):
    settings = config(rounds=1)
    result = run_arm(pool(toy_sites.drifts(), ("a", "c")), settings, tmp_path / "arm")
    assert [(m.site, m.code) for m in result.misses] == [("b", "OF501")]


def test_below_quorum_the_round_is_repeated_once_then_ends_with_the_names(tmp_path, healthy):
    with pytest.raises(OmniFedError, match="OF509") as caught:
        run(tmp_path / "arm", {"a": "raises", "b": "nan"}, quorum=0.6, rounds=1)
    assert "a (OF516)" in caught.value.seen
    assert "b (OF505)" in caught.value.seen
    assert not list((tmp_path / "arm").glob("round-*.json"))
    assert_same(final(run(tmp_path / "arm", quorum=0.6, rounds=1)), healthy)


def test_a_repeated_round_asks_only_who_is_missing(tmp_path, healthy):
    events = []
    result = run(tmp_path / "arm", {"b": "once"}, events, quorum=1, rounds=1)
    assert [fields["site"] for name, fields in events if name == "round"] == ["a", "c", "b"]
    assert result.misses == ()
    assert_same(final(result), healthy)


def test_scales_of_the_first_round_are_fixed_to_their_median(tmp_path):
    distill = {site: DistillSpec() for site in SITES}
    result = run(tmp_path / "arm", distill=distill, teacher=TeacherSpec(), rounds=1)
    assert result.scales == {"logits": float(np.median([toy_sites.cases(site) for site in SITES]))}
    settings = config(distill=distill, teacher=TeacherSpec())
    assert settings.task(0, "a", {}).distill.scales == {}
    assert settings.task(1, "a", result.scales).distill.scales == result.scales


def test_the_schedule_runs_over_all_rounds(tmp_path):
    task = config(rounds=5, train=TrainSpec(steps=7), seed=3).task(2, "a", {})
    assert (task.train.first_step, task.train.total_steps, task.train.seed) == (14, 35, 3)


def test_a_starter_holds_the_whole_student(tmp_path):
    executors = {
        site: toy_sites.Learner(site, tmp_path / "sites", channels)
        for site, channels in zip("abc", (1, 3, 1), strict=True)
    }
    result = run_arm(pool(executors.__getitem__), config(upload="all", rounds=1), tmp_path / "arm")
    starter = read_state(result.starter)[0]
    assert {k: v.shape for k, v in starter.items()} == state_shapes(SMALL, config().spec)
    sent = {site: read_state(tmp_path / "sites" / site / "fedbn-0.safetensors")[0] for site in SITES}
    shares = {site: weight(toy_sites.cases(site), "sqrt") for site in SITES}
    stem = next(k for k in starter if k.startswith("stem") and starter[k].ndim == 4)
    grey = sum(shares[s] * sent[s][stem].astype(float) for s in "ac") / sum(shares[s] for s in "ac")
    np.testing.assert_allclose(starter[stem], grey, rtol=1e-5, atol=1e-7)


def test_students_of_unlike_size_are_averaged_where_they_overlap(tmp_path):
    large = StudentSpec(alpha=0.6, beta=0.8)
    assert architecture_key(large) != architecture_key(SMALL)
    students = {"a": large, "b": SMALL, "c": SMALL}
    result = run(tmp_path / "arm", student=students, rounds=1, weighting="equal")
    start = read_state(tmp_path / "arm" / "start.safetensors")[0]
    got = final(result)
    settings = config(student=students, rounds=1)
    found = slice_map(large, SMALL, settings.spec)
    sent = {}
    for site, part in {"a": start, "b": take(start, found), "c": take(start, found)}.items():
        sent[site] = toy_sites.Drift(site).execute(settings.task(0, site, {}), part)[1]
    key = next(k for k, e in found.items() if e.key in start and start[e.key].ndim == 4 and e.shape != e.large_shape)
    entry = found[key]
    mean = (sent["a"][entry.key][entry.index].astype(float) + sent["b"][key] + sent["c"][key]) / 3
    np.testing.assert_allclose(got[entry.key][entry.index], mean, rtol=1e-5, atol=1e-6)
    alone = np.ones(entry.large_shape, bool)
    alone[entry.index] = False
    np.testing.assert_allclose(got[entry.key][alone], sent["a"][entry.key][alone], rtol=1e-6)


def test_an_arm_refuses_to_go_on_with_another_configuration(tmp_path):
    run(tmp_path / "arm", rounds=1)
    with pytest.raises(OmniFedError, match="OF518") as caught:
        run(tmp_path / "arm", rounds=1, seed=1)
    assert "seed" in caught.value.seen


def test_a_damaged_reply_is_asked_again(tmp_path, healthy):
    with pytest.raises(OmniFedError):
        run(tmp_path / "arm", {"b": "raises"}, quorum=1, rounds=1)
    path = tmp_path / "arm" / "replies" / "round-0000" / "a.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    assert_same(final(run(tmp_path / "arm", quorum=1, rounds=1)), healthy)


def test_a_round_whose_state_was_deleted_is_repeated(tmp_path):
    expected = run(tmp_path / "arm")
    before = final(expected)
    expected.state.unlink()
    events = []
    again = run(tmp_path / "arm", events=events)
    assert_same(final(again), before)
    assert {fields["round"] for _, fields in events} == {1}


@pytest.mark.parametrize(("wire", "most"), [("bf16", 0.52), ("int8-delta", 0.30)])
def test_bytes_shrink_in_both_directions_and_the_mean_stays(tmp_path, wire, most):
    plain, _ = run_wired(tmp_path / "plain", rounds=3)
    short, sites = run_wired(tmp_path / "short", rounds=3, wire=wire)
    assert short.bytes_up <= most * plain.bytes_up
    assert short.bytes_down <= most * plain.bytes_down
    one, other = final(plain), final(short)
    assert one.keys() == other.keys()
    for key, value in one.items():  # sites drift by N(0, 1) a round
        np.testing.assert_allclose(value, other[key], atol=0.05)
    assert [base for _, base in sites["a"].seen] == ([None] * 3 if wire == "bf16" else [-1, 0, 1])


def test_without_a_wire_nothing_changes(tmp_path, healthy):
    assert_same(final(run_wired(tmp_path, rounds=1)[0]), healthy)


@pytest.mark.parametrize("student", [SMALL, {"a": StudentSpec(alpha=0.6, beta=0.8), "b": SMALL, "c": SMALL}])
def test_both_ends_hold_the_same_bits(tmp_path, student):
    settings = config(student=student, rounds=3, wire="int8-delta")
    _, sites = run_wired(tmp_path, student=student, rounds=3, wire="int8-delta")
    for round_ in (1, 2):
        held = read_state(tmp_path / "arm" / f"held-{round_:04d}.safetensors")[0]
        for name, site in sites.items():
            own = settings.student_of(name)
            part = held if own == settings.largest else take(held, slice_map(settings.largest, own, settings.spec))
            assert_same(site.store.load_held("fedbn", round_), part)
            assert [base for _, base in site.seen] == [-1, 0, 1]
    assert not (tmp_path / "arm" / "held-0000.safetensors").exists()


def test_students_of_unlike_size_with_a_wire_end_near_those_without(tmp_path):
    student = {"a": StudentSpec(alpha=0.6, beta=0.8), "b": SMALL, "c": SMALL}
    plain = final(run_wired(tmp_path / "plain", student=student)[0])
    for name in ("bf16", "int8-delta"):
        short = final(run_wired(tmp_path / name, student=student, wire=name)[0])
        for key, value in plain.items():
            np.testing.assert_allclose(value, short[key], atol=0.05)


def test_a_site_that_lost_its_copy_gets_the_whole_in_the_same_round(tmp_path):
    expected, _ = run_wired(tmp_path / "healthy", rounds=3, wire="int8-delta")
    events = []
    got, sites = run_wired(tmp_path / "lost", events, {"b": {"forgets": 1}}, rounds=3, wire="int8-delta")
    assert_same(final(got), final(expected))
    assert got.misses == ()
    assert "miss" not in {name for name, _ in events}
    assert sites["b"].seen == [(0, -1), (1, 0), (1, None), (2, 1)]
    assert got.bytes_down > expected.bytes_down


def test_a_site_with_another_copy_gets_the_whole_in_the_same_round(tmp_path):
    def spoil(site: Wired, state):
        held = site.store.load_held("fedbn", 0)
        key = next(key for key, value in held.items() if value.ndim == 4)
        held[key] = held[key] + np.float32(0.01)
        site.store.save_held("fedbn", 0, held)

    expected, _ = run_wired(tmp_path / "healthy", wire="int8-delta")
    settings = config(wire="int8-delta")
    sites = {site: Wired(site, tmp_path / "other" / "sites") for site in settings.sites}

    class Spoilt(Wired):
        def execute(self, task, state):
            if not isinstance(task, HelloTask) and task.base == 0:
                spoil(self, state)
            return super().execute(task, state)

    sites["b"] = Spoilt("b", tmp_path / "other" / "sites")
    got = run_arm(pool(sites.__getitem__), settings, tmp_path / "other" / "arm")
    assert_same(final(got), final(expected))
    assert sites["b"].seen == [(0, -1), (1, 0), (1, None)]


def test_a_site_that_missed_a_round_gets_the_whole_in_the_next(tmp_path):
    got, sites = run_wired(tmp_path, None, {"b": {"absent": 1}}, rounds=4, wire="int8-delta")
    assert [(m.round, m.site) for m in got.misses] == [(1, "b")]
    assert sites["b"].seen == [(0, -1), (1, 0), (2, None), (3, 2)]
    assert [base for _, base in sites["a"].seen] == [-1, 0, 1, 2]


def test_without_its_file_of_what_sites_hold_the_coordinator_sends_the_whole(tmp_path):
    expected, _ = run_wired(tmp_path, rounds=2, wire="int8-delta")
    before = final(expected)
    expected.state.unlink()
    (tmp_path / "arm" / "held-0000.safetensors").unlink()
    for path in (tmp_path / "sites").rglob("replies/*/*"):
        path.unlink()
    again, sites = run_wired(tmp_path, rounds=2, wire="int8-delta")
    assert sites["a"].seen == [(1, None)]
    for key, value in final(again).items():
        np.testing.assert_allclose(value, before[key], atol=0.05)


def test_a_starter_with_a_wire(tmp_path):
    plain = run_wired(tmp_path / "plain", upload="all", local_layers=("norm",), rounds=1)[0]
    short = run_wired(tmp_path / "short", upload="all", local_layers=("norm",), rounds=1, wire="int8-delta")[0]
    one, other = read_state(plain.starter)[0], read_state(short.starter)[0]
    assert one.keys() == other.keys()
    for key, value in one.items():
        np.testing.assert_allclose(value, other[key], atol=0.05)


def test_sites_alone_have_no_wire(tmp_path):
    result, _ = run_wired(tmp_path, name="local", aggregate=False, wire="int8-delta", rounds=1)
    assert result.state is None
    assert config(aggregate=False, wire="int8-delta").task(0, "a", {}).wire == "fp32"
    assert not list((tmp_path / "arm").glob("held-*"))


def test_malformed_weights_from_a_site_are_a_miss(tmp_path):
    class Bad(Wired):
        def execute(self, task, state):
            reply, upload = super().execute(task, state)
            return reply, {key: value for key, value in upload.items() if key != SCALES}

    settings = config(rounds=1, wire="int8-delta")
    sites = {site: (Bad if site == "b" else Wired)(site, tmp_path / "sites") for site in settings.sites}
    result = run_arm(pool(sites.__getitem__), settings, tmp_path / "arm")
    assert [(m.site, m.code) for m in result.misses] == [("b", "OF523")]


@pytest.mark.parametrize(("wire", "step"), [("bf16", 1e-5), ("int8-delta", 1e-3)])
def test_small_steps_arrive_in_time(tmp_path, wire, step):
    """Steps far below the coding's grid: the mean moves all the same, because nothing is forgotten on either way."""

    class Creep(Wired):
        def execute(self, task, state):
            if isinstance(task, HelloTask):
                return super().execute(task, state)
            held = arrived(task, state, self.store)
            upload = {k: v + np.float32(step) if v.dtype.kind == "f" else v for k, v in held.items()}
            key = next(k for k, v in upload.items() if v.ndim == 4)
            upload[key][(0,) * 4] += 1.0  # sets the step of int8 to 1 / 127
            last = self.store.last_round(task.arm, before=task.round)
            own = self.store.load_round(task.arm, last)[0] if last is not None else {}
            sent = leaving(task, upload, held, strip_prefix("lost", own))
            none = {"adopted_round": -1, "previous_adopted_round": -1}
            self.store.save_round(task.arm, task.round, add_prefix("lost", sent.lost), none)
            return FitReply(
                id=task.id, site=self.site, n=1, steps=1, loss={"supervised": 1.0}, dice=0.5, adopted=True
            ), sent.arrays

    settings = config(rounds=16, wire=wire, sites=("a", "b"))
    sites = {site: Creep(site, tmp_path / "sites") for site in settings.sites}
    got = final(run_arm(pool(sites.__getitem__, settings.sites), settings, tmp_path / "arm"))
    start = read_state(tmp_path / "arm" / "start.safetensors")[0]
    key = next(k for k, v in got.items() if v.ndim == 4)
    moved = float((got[key].astype(float) - start[key]).ravel()[1:].mean())
    assert moved == pytest.approx(16 * step, rel=0.15)


def killed_run(folder: Path, point: int, wire: str) -> bool:
    """Runs in a forked process that kills itself (-9) before or after its n-th rename; whether it was killed."""
    child = os.fork()
    if child == 0:
        real, left = os.replace, point

        def replace(old, new):
            nonlocal left
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            real(old, new)
            if left == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 2

        os.replace = replace
        code = 1
        try:
            run_for_kill(folder, wire)
            code = 0
        finally:
            os._exit(code)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL)
    return status != 0


def run_for_kill(folder: Path, wire: str) -> ArmResult:
    if wire == "fp32":
        return run(folder / "arm", sites=("a", "b"))
    return run_wired(folder, sites=("a", "b"), wire=wire)[0]


# fp32: arm.json, start, and in each of two rounds two replies, the state and the record: before and after each.
# int8-delta: in each round also what the sites will hold, and at both sites what they hold, the round and the reply;
# once at both sites the key of their vault.
@pytest.mark.slow
@pytest.mark.parametrize(("wire", "writes"), [("fp32", 2 + 2 * 4), ("int8-delta", 2 + 2 * (4 + 1 + 2 * 3) + 2)])
def test_killed_at_every_write_it_ends_with_the_same_weights(tmp_path, wire, writes):
    """kill -9 before and after each write of run_arm, then resume: bit for bit the undisturbed weights."""
    expected = run_for_kill(tmp_path / "undisturbed", wire)
    point = 0
    while killed_run(folder := tmp_path / f"killed-{point}", point, wire):
        resumed = run_for_kill(folder, wire)
        assert_same(final(resumed), final(expected))
        assert resumed.dice == expected.dice
        assert (resumed.bytes_up, resumed.bytes_down) == (expected.bytes_up, expected.bytes_down)
        assert not list((folder / "arm").rglob("*.part"))
        shutil.rmtree(folder)
        point += 1
    assert point == 2 * writes


def assert_same(one, other):
    assert one.keys() == other.keys()
    for key, value in one.items():
        assert value.dtype == other[key].dtype
        np.testing.assert_array_equal(value, other[key])
