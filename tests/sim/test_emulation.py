from __future__ import annotations

import numpy as np
import pytest

from omnifed.data.prepare import SiteData
from omnifed.data.prepared import Prepared
from omnifed.data.site import Normalisation, SiteConfig
from omnifed.devices.figures import Figure, Figures
from omnifed.devices.measurement import Measurement
from omnifed.devices.profile import DeviceProfile, load_profile
from omnifed.errors import OmniFedError
from omnifed.federation.replies import BenchReply, FitReply, HelloReply
from omnifed.federation.tasks import BenchTask, EvaluateTask, FitTask, HelloTask, TeachTask, TrialTask
from omnifed.models.base import SiteSpec
from omnifed.models.scaling import architecture_key
from omnifed.models.spec import StudentSpec
from omnifed.teachers.spec import TeacherSpec
from omnifed.training.spec import TrainSpec
from omnifed.transport.apps import client_app
from omnifed.transport.inprocess import Delivery, InProcessGrid
from omnifed.transport.pool import TaskPool
from omnifed_sim.emulated import NOISE, EmulatedExecutor, emulated, training_mib
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


def trial(name: str = "x", **changes) -> TrialTask:
    return TrialTask(id=f"c.trial.a.{name}", student=StudentSpec(), train=TrainSpec(steps=5), **changes)


def test_trials_drop_out_and_are_late_by_their_own_draws():
    clock = VirtualClock(Emulation(default=Conditions(step_seconds=2, dropout=0.5, lateness_s=(10, 20))))
    sent = [Delivery("a", trial(str(i)), 0, 0) for i in range(40)]
    assert 8 <= sum(clock.drops_out(delivery) for delivery in sent) <= 32
    late = [clock.seconds(delivery, 0, 0) - 10 for delivery in sent]  # 5 steps of 2 s
    assert all(10 <= seconds <= 20 for seconds in late)
    assert len(set(late)) == 40
    assert late[0] == clock.seconds(Delivery("a", trial("0"), 0, 0), 0, 0) - 10
    assert not clock.drops_out(Delivery("a", BenchTask(id="b", students=(StudentSpec(),)), 0, 0))


def test_a_site_has_the_speed_of_its_device(tmp_path):
    (tmp_path / "e.toml").write_text(
        '[default]\nstep_seconds = 2\n[sites.pi]\ndevice = "raspberry-pi-4"\nspeed = 0.5\n'
    )
    clock = VirtualClock(load(tmp_path / "e.toml"))
    speed = load_profile("raspberry-pi-4").speed
    assert 0 < speed < 1
    assert clock.seconds(Delivery("pi", fit(), 0, 0), 0, 0) == pytest.approx(5 * 2 / (0.5 * speed))
    assert clock.seconds(Delivery("other", fit(), 0, 0), 0, 0) == 10


def test_an_unknown_device_is_named_at_once():
    with pytest.raises(OmniFedError, match="OF710"):
        VirtualClock(Emulation(sites={"a": Conditions(device="abacus")}))


SIZE = (64, 64)
SITE = SiteConfig(
    name="a",
    modality="mri",
    labels={0: "background", 1: "square"},
    normalisation=Normalisation(kind="percentile"),
)


class Here:
    """A site's executor that measures 10, 20, ... ms of CPU time, and counts what it was asked."""

    def __init__(self) -> None:
        images = np.zeros((0, 1, *SIZE), np.float16)
        nothing = Prepared(
            SITE.spec, images, images[:, 0], np.zeros(0, bool), (), (), (), np.zeros((0, 2)), np.ones(2, bool)
        )
        self.data, self.asked = SiteData(SITE, nothing, nothing, nothing, (), ()), []

    def execute(self, task, state):
        self.asked.append(task.kind)
        if not isinstance(task, BenchTask):
            return FitReply(id=task.id, site="a", n=1, steps=1, loss={}, dice=0.5, adopted=True), state
        measured = tuple(
            Measurement(
                network=architecture_key(student), size=SIZE, warmups=1, runs=9, p50_ms=99.0, p95_ms=120.0,
                cpu_ms=10.0 * i, variation=0.02, load_ms=5.0, peak_mib=70.0, energy_mj=1.0,
            )
            for i, student in enumerate(task.students, 1)
        )  # fmt: skip
        return BenchReply(id=task.id, site="a", device="here", memory_mib=9999, measurements=measured), {}


def profile(memory_mib: float = 4000.0, rate: float = 10.0) -> DeviceProfile:
    def figure(value: float) -> Figure:
        return Figure(value=value, evidence="modelled", source="made for this test")

    figures = Figures(
        memory_mib=figure(memory_mib), rate_gmac_s=figure(rate), bandwidth_gb_s=figure(10), layer_us=figure(50),
        base_mib=figure(40),
    )  # fmt: skip
    return DeviceProfile(
        name="toy", title="Toy board", kind="cpu", processor="toy", cores=1, engine="ort", figures=figures
    )


SMALL, LARGE = StudentSpec(alpha=0.6, beta=0.5), StudentSpec(alpha=1.5, beta=2.0)
BENCH = BenchTask(id="b", students=(SMALL, LARGE, StudentSpec()))


def test_what_is_measured_here_becomes_what_the_device_would_show():
    device = profile()
    reply, _ = EmulatedExecutor(Here(), device, seed=1).execute(BENCH, {})
    assert (reply.device, reply.memory_mib) == ("Toy board", 4000)
    estimates = [device.estimate(student, SITE.spec, SIZE) for student in BENCH.students]
    factor = sorted(e.p50_ms / cpu for e, cpu in zip(estimates, (10, 20, 30), strict=True))[1]
    for measured, estimate, cpu in zip(reply.measurements, estimates, (10, 20, 30), strict=True):
        assert measured.evidence == "modelled"
        assert abs(np.log(measured.p50_ms / (cpu * factor))) < 4 * NOISE
        assert measured.p50_ms != cpu * factor
        assert measured.p95_ms == pytest.approx(1.1 * measured.p50_ms)
        assert (measured.peak_mib, measured.energy_mj) == (estimate.peak_mib, None)
        assert measured.load_ms == pytest.approx(5 * factor)
    again, _ = EmulatedExecutor(Here(), device, seed=1).execute(BENCH, {})
    other, _ = EmulatedExecutor(Here(), device, seed=2).execute(BENCH, {})
    assert again == reply
    assert other.measurements[0].p50_ms != reply.measurements[0].p50_ms


def test_what_does_not_fit_into_the_device_is_refused_and_the_rest_is_done():
    spec = SiteSpec(1, 2)
    need = {s: training_mib(s, spec, SIZE, 8) for s in (SMALL, LARGE)}
    here = Here()
    site = EmulatedExecutor(here, profile(memory_mib=(need[SMALL] + need[LARGE]) / 2))
    task = trial(fraction=0.5)
    assert task.train.batch_size == 8
    reply, _ = site.execute(task.model_copy(update={"student": LARGE}), {})
    assert (reply.kind, reply.code, reply.site, reply.id) == ("failed", "OF761", "a", task.id)
    assert "toy" in reply.rule
    assert here.asked == []
    assert site.execute(task.model_copy(update={"student": SMALL}), {})[0].kind == "fit"
    assert site.execute(HelloTask(id="h"), {})[0].kind == "fit"  # passed on as it is
    assert site.execute(BENCH, {})[0].kind == "bench"  # inference needs less than training
    tiny = EmulatedExecutor(here, profile(memory_mib=45))
    assert tiny.execute(BENCH, {})[0].code == "OF761"
    assert tiny.execute(EvaluateTask(id="e", student=LARGE), {})[0].code == "OF761"


def test_memory_of_training_by_hand():
    # Beyond the process: 16 bytes a parameter do not grow with the batch, all else does, by image and by pixel.
    spec = SiteSpec(1, 2)
    one, two, four = (training_mib(SMALL, spec, SIZE, batch) for batch in (1, 2, 4))
    assert four - two == pytest.approx(2 * (two - one))
    larger = training_mib(SMALL, spec, (128, 128), 1) - (2 * one - two)
    assert larger == pytest.approx(4 * (two - one), rel=0.01)  # gates work on one vector an image


def test_only_a_site_with_a_device_is_wrapped():
    here = Here()
    assert emulated(here, Emulation(sites={"b": Conditions(device="jetson-nano")})) is here
    wrapped = emulated(here, Emulation(seed=4, sites={"a": Conditions(device="jetson-nano")}))
    assert isinstance(wrapped, EmulatedExecutor)
    assert (wrapped.profile.name, wrapped.seed) == ("jetson-nano", 4)
