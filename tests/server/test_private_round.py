"""A private round over the real task pool: the plain mean, whoever drops out when, and after a crash anywhere."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import toy_sites
from private_sites import Masked, drift, federation
from rich.console import Console

from omnifed.errors import OmniFedError
from omnifed.federation.aggregation import StreamingMean, weight
from omnifed.models.spec import StudentSpec
from omnifed.reporting.figures import curves
from omnifed.reporting.run import Run
from omnifed.states import read_state
from omnifed.training.spec import TrainSpec
from omnifed.transport.apps import client_app
from omnifed.transport.inprocess import InProcessGrid
from omnifed.transport.pool import TaskPool
from omnifed.trust.authority import rotate
from omnifed_server.board import Board
from omnifed_server.campaign import run_campaign
from omnifed_server.event_lines import lines
from omnifed_server.federation_file import FederationConfig
from omnifed_server.rounds import ArmConfig, run_arm
from omnifed_server.view import render

SMALL = StudentSpec(alpha=0.6, beta=0.5)
SITES = ("a", "b", "c", "d", "e")


class Test:
    """One arm of private rounds below a folder."""

    __test__ = False

    def __init__(self, folder: Path, away: dict[str, tuple[str, ...]] | None = None, **values) -> None:
        self.folder, self.events = folder, []
        aggregation = {"mode": "private", "clip": 20.0} | values.pop("aggregation", {})
        base = {
            "campaign": "test", "name": "fedavg", "sites": SITES, "student": SMALL, "train": TrainSpec(steps=1),
            "rounds": 1, "local_layers": ("stem", "encoder", "context", "head"), "channels": 1,
            "aggregation": aggregation,
        }  # fmt: skip
        self.config = ArmConfig.model_validate(base | values)
        self.coordinator, identities = federation(folder / "sites", self.config.sites)
        self.sites = {
            site: Masked(folder / "sites", identity, (away or {}).get(site, ()))
            for site, identity in identities.items()
        }

    def run(self, identity=True):
        pool = TaskPool(InProcessGrid(client_app(self.sites.__getitem__), self.config.sites), poll_s=0.01)
        return run_arm(
            pool,
            self.config,
            self.folder / "arm",
            identity=self.coordinator if identity else None,
            on_event=lambda name, fields: self.events.append((name, fields)),
        )

    def record(self, round_: int = 0) -> dict:
        return json.loads((self.folder / "arm" / f"round-{round_:04d}.json").read_bytes())

    def plain(self, sites) -> dict[str, np.ndarray]:
        """What the plain mean of these sites would be after the first round."""
        start = read_state(self.folder / "arm" / "start.safetensors")[0]
        mean = StreamingMean(start)
        for site in sites:
            task = self.config.task(0, site, {})
            mean.add(drift(site, task, start)[1], weight(toy_sites.cases(site), "sqrt"))
        return mean.mean()

    def check_is_mean_of(self, sites, result) -> None:
        start, found = read_state(self.folder / "arm" / "start.safetensors")[0], read_state(result.state)[0]
        expected = self.plain(sites)
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            if value.dtype.kind == "f":
                np.testing.assert_allclose(found[key], value, atol=1e-6, rtol=0)
            else:
                np.testing.assert_array_equal(found[key], start[key])


@pytest.fixture
def one(tmp_path):
    def make(**values) -> Test:
        return Test(tmp_path / "one", **values)

    return make


def test_the_plain_mean_and_nothing_of_single_sites(one) -> None:
    arm = one()
    result = arm.run()
    arm.check_is_mean_of(SITES, result)
    record = arm.record()
    assert record["dice"] == {}
    assert result.dice == {}
    assert record["mean"] == {"dice": pytest.approx(0.5, abs=1e-6), "loss": {}}
    assert (record["sites"], record["attempt"], record["misses"]) == (list(SITES), 0, [])
    assert {site.trained for site in arm.sites.values()} == {1}
    rounds = [fields for name, fields in arm.events if name == "round"]
    assert sorted(fields["site"] for fields in rounds) == sorted(SITES)
    assert {frozenset(fields) for fields in rounds} == {
        frozenset({"arm", "round", "site", "seconds", "bytes_up", "bytes_down"})
    }
    name, last = arm.events[-1]
    assert name == "aggregate"
    assert last["dice"] == pytest.approx(0.5, abs=1e-6)


def test_no_reply_of_a_site_says_anything_of_it(one) -> None:
    arm = one(rounds=1)
    kept = {}
    grid = InProcessGrid(client_app(arm.sites.__getitem__), SITES)

    class Watching(TaskPool):
        def run(self, tasks, **options):
            for arrival in super().run(tasks, **options):
                kept[arrival.site, arrival.reply.kind] = arrival
                yield arrival

    run_arm(Watching(grid, poll_s=0.01), arm.config, arm.folder / "arm", identity=arm.coordinator)
    for site in SITES:
        fit = kept[site, "fit"].reply
        assert (fit.n, fit.loss, fit.dice, fit.adopted, fit.scales) == (0, {}, 0, False, {})
        assert kept[site, "fit"].state == {}
        assert kept[site, "masked"].state.keys() == {"masked"}
    whole = sum(kept["a", kind].bytes_up for kind in ("fit", "shares", "masked", "unmask"))
    params = sum(v.nbytes for v in read_state(arm.folder / "arm" / "start.safetensors")[0].values())
    assert whole < 1.06 * params + 8000  # a small student: the keys and shares are some kilobytes


def test_a_signing_key_that_ends_in_the_middle_of_a_round(one, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sites that have seen the new roster take no list of survivors that the old key has signed."""
    arm = one()
    asked = arm.sites["a"].execute

    def execute(task, state):
        if task.kind == "masked":
            rotate(arm.coordinator.folder, at_once=True)
            for site in arm.sites.values():
                site.identity.accept(arm.coordinator.signed_roster())
        return asked(task, state)

    monkeypatch.setattr(arm.sites["a"], "execute", execute)
    arm.check_is_mean_of(SITES, arm.run())
    assert arm.record()["misses"] == []


@pytest.mark.parametrize(
    ("away", "sites"),
    [
        ({"b": ("fit",)}, "acde"),
        ({"b": ("shares",)}, "acde"),
        ({"b": ("masked",)}, "acde"),
        ({"b": ("unmask",)}, "abcde"),
    ],
    ids=["fit", "shares", "masked", "unmask"],
)
def test_a_drop_in_any_exchange(one, away, sites) -> None:
    arm = one(away=away)
    result = arm.run()
    arm.check_is_mean_of(tuple(sites), result)
    assert arm.record()["sites"] == list(sites)
    assert arm.record()["attempt"] == 0
    told = [name for name, fields in arm.events if fields.get("site") == "b" and name in ("miss", "warning")]
    assert set(told) == ({"warning"} if away["b"] == ("unmask",) else {"miss"})


def test_too_few_masked_updates_begin_anew_without_training_again(one) -> None:
    arm = one(away={"a": ("masked.a0",), "b": ("masked.a0",)})
    result = arm.run()
    arm.check_is_mean_of(SITES, result)
    assert arm.record()["attempt"] == 1
    assert {site.trained for site in arm.sites.values()} == {1}


def test_a_site_that_was_away_may_join_the_next_attempt(one) -> None:
    arm = one(away={"a": ("fit.a0",), "b": ("shares.a0",)})
    result = arm.run()
    arm.check_is_mean_of(SITES, result)
    assert arm.record()["attempt"] == 1


def test_below_the_threshold_nothing_is_revealed_and_a_resume_goes_on(one) -> None:
    arm = one(away={"a": ("masked",), "b": ("masked",)})
    with pytest.raises(OmniFedError) as caught:
        arm.run()
    assert caught.value.code == "OF846"
    assert "a (OF516), b (OF516)" in caught.value.seen
    assert not any("unmask" in asked for site in arm.sites.values() for asked in site.asked)
    assert len(list((arm.folder / "arm" / "replies" / "round-0000").glob("attempt-*/given-up.json"))) == 2
    for site in arm.sites.values():
        site.away.clear()
    arm.check_is_mean_of(SITES, arm.run())
    assert {site.trained for site in arm.sites.values()} == {1}


def test_too_few_in_the_last_exchange_wait_for_the_same_sites(one) -> None:
    arm = one(away={"a": ("unmask",), "b": ("unmask",)})
    with pytest.raises(OmniFedError) as caught:
        arm.run()
    assert caught.value.code == "OF846"
    asked = {site: list(one.asked) for site, one in arm.sites.items()}
    arm.sites["a"].away.clear()
    arm.check_is_mean_of(SITES, arm.run())
    assert arm.record()["attempt"] == 0
    again = {site: one.asked[len(asked[site]) :] for site, one in arm.sites.items()}
    assert again == {"a": ["unmask.a0"], "b": ["unmask.a0"], "c": [], "d": [], "e": []}


class Crash(BaseException):
    """A coordinator that dies."""


@pytest.mark.parametrize("dies_after", [2, 7, 12, 17, 19])
def test_a_killed_coordinator_goes_on_in_the_same_attempt(tmp_path, dies_after) -> None:
    """Each exchange has five answers: the kill comes within training, shares, masked and unmask."""
    calm = Test(tmp_path / "calm", rounds=2)
    whole = read_state(calm.run().state)[0]
    arm = Test(tmp_path / "killed", rounds=2)
    grid = InProcessGrid(client_app(arm.sites.__getitem__), SITES)

    class Dying(TaskPool):
        seen = 0

        def run(self, tasks, **options):
            for arrival in super().run(tasks, **options):
                if self.seen == dies_after:
                    raise Crash
                Dying.seen += 1
                yield arrival

    with pytest.raises(Crash):
        run_arm(Dying(grid, poll_s=0.01), arm.config, arm.folder / "arm", identity=arm.coordinator)
    result = arm.run()
    assert arm.record(1)["attempt"] == 0
    found = read_state(result.state)[0]
    for key, value in whole.items():
        np.testing.assert_array_equal(found[key], value)  # a sum of whole numbers knows no order
    assert {site.trained for site in arm.sites.values()} == {2}
    told = [fields for name, fields in arm.events if name == "round" and fields["round"] == 0]
    assert {fields["site"] for fields in told} in (set(SITES), set())


def test_a_site_that_contradicts_itself_is_left_out(one) -> None:
    class Liar(Masked):
        def execute(self, task, state):
            reply, arrays = super().execute(task, state)
            if task.kind == "masked":
                arrays = {"masked": arrays["masked"][:-1]}
            return reply, arrays

    arm = one()
    arm.sites["c"] = Liar(arm.folder / "sites", arm.sites["c"].identity)
    result = arm.run()
    arm.check_is_mean_of(("a", "b", "d", "e"), result)
    assert [miss["code"] for miss in arm.record()["misses"]] == ["OF847"]


def test_garbage_under_a_mask_ends_the_round_with_its_number(one) -> None:
    class Noise(Masked):
        def execute(self, task, state):
            reply, arrays = super().execute(task, state)
            if task.kind == "masked":
                arrays = {"masked": arrays["masked"] + np.uint32(2**30)}
            return reply, arrays

    arm = one()
    arm.sites["c"] = Noise(arm.folder / "sites", arm.sites["c"].identity)
    with pytest.raises(OmniFedError) as caught:
        arm.run()
    assert caught.value.code == "OF847"


def test_a_revoked_site_is_no_part_of_it(one) -> None:
    from omnifed.trust.authority import revoke

    arm = one()
    revoke(arm.folder / "sites" / "coordinator", "d")
    result = arm.run()
    arm.check_is_mean_of(("a", "b", "c", "e"), result)
    assert [miss["code"] for miss in arm.record()["misses"]] == ["OF841"]


def test_private_needs_an_identity_and_one_student(one) -> None:
    arm = one()
    with pytest.raises(OmniFedError) as caught:
        arm.run(identity=False)
    assert caught.value.code == "OF840"
    for values in ({"wire": "bf16"}, {"upload": "all"}, {"student": dict.fromkeys(SITES, SMALL)}):
        with pytest.raises(ValueError, match="one student"):
            ArmConfig.model_validate({**arm.config.model_dump(), **values})
    alone = ArmConfig.model_validate({**arm.config.model_dump(), "aggregate": False})
    assert alone.privacy.mode == "mean"


def test_a_threshold_below_two_thirds_is_refused_by_the_sites(one) -> None:
    arm = one(aggregation={"threshold": 3})
    with pytest.raises(OmniFedError) as caught:
        arm.run()
    assert "OF842" in caught.value.seen


def test_views_and_report_show_the_mean_of_the_sites(one) -> None:
    arm = one()
    arm.run()
    events = tuple({"event": name, **fields} for name, fields in arm.events)
    board = Board(SITES, ("fedavg",))
    board.add({"event": "stage", "stage": "fedavg", "total": 1})
    for event in events:
        board.add(event)
    assert board.means == {"fedavg": pytest.approx(0.5, abs=1e-6)}
    assert {name: (row.dice, row.replies["fedavg"]) for name, row in board.sites.items()} == dict.fromkeys(
        SITES, ({}, 1)
    )
    screen = Console(width=120, file=io.StringIO())
    screen.print(render(board))
    assert "Dice 0.500, mean of the sites" in screen.file.getvalue()
    assert [text for event in events if "done: Dice 0.500 (mean of the sites), 5 sites" in (text := lines(event) or "")]
    run = Run(arm.folder, {"arms": ["fedavg"]}, events, 0, (), (), (), tuple({"name": s} for s in SITES), {})
    assert ">mean of the sites<" in curves(run)


def test_a_campaign_without_identity_says_so_before_it_asks_anything(tmp_path) -> None:
    config = FederationConfig(sites=SITES, insecure=True, aggregation="private")
    told = []
    with pytest.raises(OmniFedError) as caught:
        run_campaign(None, config, tmp_path / "run", lambda name, fields: told.append((name, fields)))
    assert caught.value.code == "OF840"
    assert [fields["state"] for _, fields in told] == ["started", "failed"]
