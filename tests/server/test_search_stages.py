"""The searches as stages of a campaign: real trials at two tiny sites, resumed after kills, training what they find."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from two_hospitals import SITES, Killed, World, config

from omnifed.distill.spec import LAMBDA
from omnifed.errors import OmniFedError
from omnifed.federation.tasks import BenchTask, EvaluateTask, FitTask, Task, TrialTask
from omnifed.models.scaling import architecture_key, channels
from omnifed.search.results import ArchitectureResult, WeightResult
from omnifed_server.federation_file import FederationConfig, load_federation
from omnifed_server.searches import trusted

STAGES = ("prepare", "teach", "search-architecture", "search-weights", "train", "evaluate")
PI = {"name": "raspberry-pi-4", "latency_ms": 400}


def searching(**changes: Any) -> FederationConfig:
    values: dict[str, Any] = {
        "stages": STAGES, "arms": ("omnikd",),
        "architecture": {"budget": "6", "steps": 1, "fraction": 0.5, "full": 2, "targets": [PI]},
        "weights": {"budget": "7", "steps": 1, "fraction": 0.5},
    }  # fmt: skip
    return config(**{**values, **changes})


def results(run: Path) -> tuple[ArchitectureResult, WeightResult]:
    folder = run / "search"
    return (
        ArchitectureResult.model_validate_json((folder / "architecture.json").read_bytes()),
        WeightResult.model_validate_json((folder / "weights.json").read_bytes()),
    )


class Seen(World):
    """Remembers every task."""

    def __init__(self, folder: Path, *args: Any) -> None:
        self.tasks: list[tuple[str, Task]] = []
        super().__init__(folder, *args)
        fault = self.fault
        self.fault = lambda site, task: self.tasks.append((site, task)) or fault(site, task)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    world = Seen(tmp_path_factory.mktemp("search"))
    world.start(searching())
    return world


def test_what_was_found_is_what_is_trained(found: Seen) -> None:
    architecture, weights = results(found.run)
    (device,) = architecture.devices
    assert device.sites == SITES
    student = next(network.student for network in architecture.networks if network.key == device.chosen)
    fits = [task for _, task in found.tasks if isinstance(task, FitTask)]
    assert {architecture_key(task.student) for task in fits} == {device.chosen}
    lambdas = trusted(weights)
    for site, task in found.tasks:
        if isinstance(task, FitTask):
            assert task.distill.weights == lambdas.get(site, LAMBDA["mri"])
    tested = [task for _, task in found.tasks if isinstance(task, EvaluateTask) and task.which == "adopted"]
    assert {task.student for task in tested} == {student}


def test_trials_are_counted_and_spread_over_the_sites(found: Seen) -> None:
    architecture, weights = results(found.run)
    assert (architecture.trials, weights.trials) == (8, 14), "two of them in full, which no budget counts"
    full = [step for step in architecture.history if step.why == "full"]
    assert [step.steps for step in full] == [2, 2]
    assert architecture.agreement is not None
    assert architecture.agreement.full
    assert {step.site for step in architecture.history} == set(SITES)
    trials = [task for _, task in found.tasks if isinstance(task, TrialTask)]
    assert len(trials) == len({task.id for task in trials}) == 22
    assert [task.distill is None for task in trials] == [True] * 8 + [False] * 14
    assert {task.anchor for task in trials[:2]} == {True}, "every site does the anchor first"
    events = [values for values in found.of("trial") if values["stage"] == "search-architecture"]
    assert [(values["number"], values["total"]) for values in events] == [(i, 6 if i < 7 else 8) for i in range(1, 9)]
    assert {values["stage"] for values in found.of("search")} == {"search-architecture", "search-weights"}
    assert (found.run / "search" / "architecture.svg").stat().st_size > 1000
    assert not [task for _, task in found.tasks if isinstance(task, BenchTask)], "a profile needs no measurement"


def test_a_finished_search_is_not_done_again(found: Seen) -> None:
    before = len(found.tasks)
    found.start(searching())
    assert not [task for _, task in found.tasks[before:] if isinstance(task, TrialTask)]
    found.start(searching(stages=("prepare", "train", "evaluate")))
    assert not [task for _, task in found.tasks[before:] if isinstance(task, TrialTask | FitTask)]


def test_killed_at_one_trial_after_another_it_finds_the_same(found: Seen, tmp_path: Path) -> None:
    world, told = World(tmp_path), []
    searches = searching(stages=STAGES[:4])

    def kill_at(number: int) -> Callable[[str, dict[str, Any]], bool]:
        def kill(event: str, values: dict[str, Any]) -> bool:
            if event == "trial" and not values.get("again"):
                told.append(values)
            return len(told) == number

        return kill

    for number in (1, 7, 11, 19):  # the first, one in full, and two in the search of weights
        with pytest.raises(Killed):
            world.start(searches, kill=kill_at(number))
        assert len(told) == number
    world.start(searches)
    ours, theirs = results(world.run), results(found.run)
    assert [step.model_dump(exclude={"key"}) for step in ours[1].history] == [
        step.model_dump(exclude={"key"}) for step in theirs[1].history
    ]
    assert ours[0].devices == theirs[0].devices
    assert ours[1].universal.weights == theirs[1].universal.weights


def test_a_budget_may_grow_before_anything_is_trained(tmp_path: Path) -> None:
    world = World(tmp_path)
    only = ("prepare", "search-architecture")
    more = {"budget": "6", "steps": 1, "fraction": 0.5, "full": 0, "targets": [PI]}
    world.start(searching(stages=only, arms=("fedbn",), architecture=more))
    more["budget"] = "8"
    world.start(searching(stages=only, arms=("fedbn",), architecture=more))
    result = ArchitectureResult.model_validate_json((world.run / "search" / "architecture.json").read_bytes())
    assert result.trials == 8
    with pytest.raises(OmniFedError) as caught:
        world.start(searching(stages=only, arms=("fedbn",), architecture={**more, "steps": 2}))
    assert caught.value.code == "OF116"


def test_two_classes_of_devices_train_slices_of_one_network(tmp_path: Path) -> None:
    world = Seen(tmp_path)
    targets = [
        {"name": "small", "profile": "raspberry-pi-4", "latency_ms": 60, "sites": ["north"]},
        {"name": "large", "profile": "raspberry-pi-4", "latency_ms": 2000, "sites": ["east"]},
    ]
    search = {
        "budget": "6",
        "steps": 1,
        "fraction": 0.5,
        "full": 0,
        "targets": targets,
        "alpha": (0.6, 0.8),
        "beta": (0.5, 1.0),
    }
    world.start(
        searching(stages=("prepare", "search-architecture", "train", "evaluate"), arms=("fedavg",), architecture=search)
    )
    students = {site: task.student for site, task in world.tasks if isinstance(task, FitTask)}
    wide = {site: channels(student) for site, student in students.items()}
    assert all(a <= b for a, b in zip(wide["north"], wide["east"], strict=True))
    local = {task.local_layers for _, task in world.tasks if isinstance(task, FitTask)}
    if students["north"] != students["east"]:
        assert local == {("norm",)}, "norms of a slice are not those of the network"
    assert not world.of("miss")


def test_warm_starts_begin_from_a_slice_of_what_all_sites_trained(tmp_path: Path) -> None:
    world = Seen(tmp_path)
    search = {
        "budget": "4", "steps": 1, "fraction": 0.5, "full": 0, "targets": [PI], "warm_start": True,
        "alpha": (0.6, 0.7), "beta": (0.5, 0.7),
    }  # fmt: skip
    world.start(searching(stages=("prepare", "search-architecture"), arms=("fedbn",), architecture=search))
    shared = [task for _, task in world.tasks if isinstance(task, FitTask)]
    assert {(task.arm, channels(task.student)) for task in shared} == {("shared", channels(shared[0].student))}
    result = ArchitectureResult.model_validate_json((world.run / "search" / "architecture.json").read_bytes())
    assert result.trials == 4


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"architecture": {"budget": "soon"}}, "a budget is a number"),
        ({"architecture": {"targets": [{"name": "x", "latency_ms": 1, "sites": ["nowhere"]}]}}, "nowhere"),
        ({"architecture": {"targets": [PI, PI]}}, "once"),
        ({"arms": ("fedbn",)}, "search-weights finds weights for the arm omnikd"),
        ({"weights": {"gamma": -1}}, "gamma"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    file = tmp_path / "FED.toml"
    file.write_text('name = "x"\nsites = ["north", "east"]\ninsecure = true\n')
    values = {"stages": list(STAGES), "arms": ["omnikd"], **changes}
    with pytest.raises(OmniFedError, match=words) as caught:
        load_federation(file, **values)
    assert caught.value.code == "OF102"


def test_an_unknown_device_is_refused_before_the_campaign_begins(tmp_path: Path) -> None:
    file = tmp_path / "FED.toml"
    file.write_text('name = "x"\nsites = ["north"]\ninsecure = true\n')
    search = {"targets": [{"name": "toaster", "latency_ms": 1}]}
    with pytest.raises(OmniFedError, match="raspberry-pi-4") as caught:
        load_federation(file, stages=["prepare", "search-architecture"], architecture=search)
    assert caught.value.code == "OF710"
    load_federation(file, architecture=search)  # a search that is not asked for is not looked at


def test_a_budget_that_no_network_meets_is_said_with_the_figure(tmp_path: Path) -> None:
    search = {"targets": [{"name": "raspberry-pi-4", "latency_ms": 0.1}]}
    with pytest.raises(OmniFedError, match="the fastest network, omnisegnet/") as caught:
        World(tmp_path).start(
            searching(stages=("prepare", "search-architecture"), architecture=search, arms=("fedbn",))
        )
    assert caught.value.code == "OF740"


def test_a_campaign_without_a_search_loads_none_of_its_libraries(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys, pathlib; sys.path.insert(0, 'tests/server')\n"
        "from two_hospitals import World, config\n"
        f"world = World(pathlib.Path({str(tmp_path)!r}))\n"
        "world.start(config(arms=('local',), rounds=1, stages=('prepare', 'train')))\n"
        "print(json.dumps([m for m in ('botorch', 'gpytorch', 'pymoo', 'openvino') if m in sys.modules]))"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", "import json;" + code], cwd=root, capture_output=True, text=True, check=False
    )
    assert json.loads(done.stdout.splitlines()[-1]) == [], done.stderr
