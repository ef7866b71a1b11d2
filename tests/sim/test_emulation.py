from __future__ import annotations

import numpy as np
import pytest

from omnifed.errors import OmniFedError
from omnifed.federation.tasks import FitReply, FitTask, HelloReply, HelloTask, TeachTask
from omnifed.models.spec import StudentSpec
from omnifed.teachers.spec import TeacherSpec
from omnifed.training.spec import TrainSpec
from omnifed.transport.apps import client_app
from omnifed.transport.inprocess import Delivery, InProcessGrid
from omnifed.transport.pool import TaskPool
from omnifed_sim.emulation import Conditions, Emulation, VirtualClock, load

TOML = """
seed = 3
[default]
bandwidth_mbps = 8
step_seconds = 2
[sites.slow]
speed = 0.25
lateness_s = [10, 20]
"""


class Quick:
    """Answers at once; remembers what it was asked."""

    def __init__(self, site: str, worked: list[str]) -> None:
        self.site, self.worked = site, worked

    def execute(self, task, state):
        if isinstance(task, HelloTask):
            return HelloReply(
                id=task.id, site=self.site, version="0", channels=1, classes=2, labels=("a", "b"), modality="ct",
                image_size=(32, 32), train=1, val=1, test=1,
            ), {}  # fmt: skip
        self.worked.append(f"{self.site}{task.round}")
        return FitReply(id=task.id, site=self.site, n=1, steps=1, loss={}, dice=0.5, adopted=True), state


def fit(site: str = "a", round_: int = 0) -> FitTask:
    return FitTask(id=f"t.a.r{round_}.{site}.fit", round=round_, student=StudentSpec(), train=TrainSpec(steps=5))


def rounds(emulation: Emulation, sites: list[str], count: int, deadline_s: float | None = None):
    worked: list[str] = []
    grid = InProcessGrid(client_app(lambda site: Quick(site, worked)), sites, schedule=VirtualClock(emulation))
    pool = TaskPool(grid)
    state = {"w": np.zeros(10, np.float32)}
    outcome = [
        [
            (a.site, getattr(a.reply, "code", ""), a.virtual_seconds)
            for a in pool.run({s: (fit(s, r), state) for s in sites}, deadline_s=deadline_s)
        ]
        for r in range(count)
    ]
    return outcome, worked


def test_a_site_takes_the_default_for_what_it_does_not_say(tmp_path):
    (tmp_path / "e.toml").write_text(TOML)
    emulation = load(tmp_path / "e.toml")
    assert emulation.of("any") == Conditions(bandwidth_mbps=8, step_seconds=2)
    assert emulation.of("slow") == Conditions(bandwidth_mbps=8, step_seconds=2, speed=0.25, lateness_s=(10, 20))


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("[default]\nspeed = 0", "default.speed"),
        ("[default]\nbandwith_mbps = 1", "default.bandwith_mbps"),
        ("[sites.x]\ndropout = 1.5", "sites.x.dropout"),
        ("[sites.x]\nlateness_s = [5, 1]", "sites.x.lateness_s"),
    ],
)
def test_a_wrong_key_is_named(tmp_path, text, key):
    (tmp_path / "e.toml").write_text(text)
    with pytest.raises(OmniFedError, match="OF102") as caught:
        load(tmp_path / "e.toml")
    assert key in caught.value.seen


def test_virtual_seconds_made_by_hand():
    own = Conditions(speed=0.5, bandwidth_mbps=8, step_seconds=2)
    teach = TeachTask(id="t", teacher=TeacherSpec(train=TrainSpec(steps=300)))
    clock = VirtualClock(Emulation(default=own))
    # 5 steps of 2 s at half the speed, and 1 + 2 MB at 1 MB/s.
    assert clock.seconds(Delivery("a", fit(), 0, 1_000_000), 2_000_000, worked_s=99) == 20 + 3
    assert clock.seconds(Delivery("a", HelloTask(id="h"), 0, 0), 0, worked_s=3) == 6
    assert clock.seconds(Delivery("a", teach, 0, 0), 0, worked_s=9) == 300 * 2 / 0.5
    measured = VirtualClock(Emulation(default=Conditions(speed=2)))
    assert measured.seconds(Delivery("a", fit(), 0, 0), 0, worked_s=3) == 1.5


def test_lateness_lies_within_its_bounds_and_is_drawn_from_the_round():
    clock = VirtualClock(Emulation(default=Conditions(step_seconds=1, lateness_s=(10, 20))))
    draws = [clock.seconds(Delivery("a", fit("a", r), 0, 0), 0, 0) - 5 for r in range(50)]
    assert all(10 <= d <= 20 for d in draws)
    assert max(draws) - min(draws) > 5
    assert draws == [clock.seconds(Delivery("a", fit("a", r), 0, 0), 0, 0) - 5 for r in range(50)]


def test_a_site_that_drops_out_does_not_work():
    emulation = Emulation(seed=1, sites={"b": Conditions(dropout=0.5)})
    outcome, worked = rounds(emulation, ["a", "b"], 40)
    missed = [r for r, arrivals in enumerate(outcome) if arrivals[1][1]]
    assert all(outcome[r][1][1] == "OF506" for r in missed)
    assert 8 <= len(missed) <= 32
    assert [w for w in worked if w.startswith("b")] == [f"b{r}" for r in range(40) if r not in missed]
    again, _ = rounds(emulation, ["a", "b"], 40)
    assert [r for r, arrivals in enumerate(again) if arrivals[1][1]] == missed


def test_a_second_attempt_draws_anew():
    clock = VirtualClock(Emulation(default=Conditions(dropout=0.5)))
    draws = {clock.drops_out(Delivery("a", fit(), attempt, 0)) for attempt in range(20)}
    assert draws == {True, False}


def test_a_site_beyond_the_deadline_is_late_on_the_virtual_clock_alone():
    emulation = Emulation(default=Conditions(step_seconds=100), sites={"b": Conditions(speed=0.1)})
    outcome, worked = rounds(emulation, ["a", "b"], 1, deadline_s=600)
    assert [(site, code) for site, code, _ in outcome[0]] == [("a", ""), ("b", "OF502")]
    assert outcome[0][0][2] == pytest.approx(500, abs=0.01)
    assert worked == ["a0", "b0"]
