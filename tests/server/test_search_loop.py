"""Trials over the in-process grid: all sites at work, faults cost nobody else anything, a resumed loop goes on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from toy_sites import hello

from omnifed.errors import OmniFedError
from omnifed.federation.replies import FailedReply, Reply, TrialReply
from omnifed.federation.tasks import HelloTask, Task, TrialTask
from omnifed.models.spec import StudentSpec
from omnifed.search.study import Study
from omnifed.search.trials import History, Trial, make_trial
from omnifed.states import State
from omnifed.training.spec import TrainSpec
from omnifed.transport.apps import client_app
from omnifed.transport.inprocess import InProcessGrid
from omnifed.transport.pool import TaskPool
from omnifed_server.search_loop import STRIKES, SearchLoop

SITES = ("a", "b", "c")


class Counting:
    """Asks each free site for the next number."""

    def __init__(self, limit: int = 1000) -> None:
        self.limit = limit

    def ask(self, history: History, sites: Sequence[str]) -> list[Trial]:
        numbers = range(history.asked, min(self.limit, history.asked + len(sites)))
        return [
            make_trial("s", f"n{n}", site, steps=1, fraction=1.0, student=StudentSpec(), why="model")
            for n, site in zip(numbers, sites, strict=False)
        ]


class Toy:
    """Answers a trial with a Dice that follows from its id; or fails, by name of the fault."""

    def __init__(self, site: str, faults: dict[str, str], log: list[str]) -> None:
        self.site, self.fault, self.log = site, faults.get(site, ""), log

    def execute(self, task: Task, state: State) -> tuple[Reply, State]:
        if isinstance(task, HelloTask):
            return hello(task, self.site), {}
        assert isinstance(task, TrialTask)
        self.log.append(task.id)
        if self.fault == "fails":
            return FailedReply(id=task.id, site=self.site, code="OF401", rule="The loss must stay finite."), {}
        if self.fault == "raises":
            raise RuntimeError("unforeseen")
        if self.fault == "killed" and len(self.log) == 5:
            raise KeyboardInterrupt
        figures: dict[str, Any] = {"dice": int(task.id[-2:], 16) / 256, "se": 0.01, "n": 3}
        if self.fault == "nan":
            figures["dice"] = float("nan")
            return TrialReply.model_construct(
                id=task.id, site=self.site, protocol=3, seconds=1.0, kind="trial", se=0.01, paired=False, n=3,
                patients=2, step_seconds=0.1, scales={}, dice=float("nan"),
            ), {}  # fmt: skip
        reply = TrialReply(id=task.id, site=self.site, patients=2, step_seconds=0.1, seconds=1.0, **figures)
        return reply, {}


def task_of(trial: Trial) -> tuple[Task, State]:
    own = TrialTask(id=f"t.{trial.id}", student=trial.student, train=TrainSpec(steps=trial.steps))
    return own, State()


class World:
    def __init__(self, folder: Path, faults: dict[str, str] | None = None, limit: int = 1000) -> None:
        self.folder, self.log, self.events = folder, [], []
        self.faults, self.limit = faults or {}, limit

    def run(self, budget: int, sites: Sequence[str] = SITES) -> tuple[Study, bool]:
        grid = InProcessGrid(client_app(lambda site: Toy(site, self.faults, self.log)), sites)
        pool = TaskPool(grid)
        pool.hello()
        with Study(Counting(self.limit), self.folder / "s.jsonl", {"seed": 0}) as study:
            loop = SearchLoop("search-weights", study, pool, SITES, task_of, self.tell, budget)

            def enough(site: str) -> bool:
                history = study.history
                return len(history.told) + len(history.pending) + len(history.failed) >= budget

            return study, loop.run(enough)

    def tell(self, event: str, fields: dict[str, Any]) -> None:
        self.events.append((event, fields))

    def of(self, event: str) -> list[dict[str, Any]]:
        return [fields for name, fields in self.events if name == event]


def test_a_budget_is_spent_to_the_last_trial_over_all_sites(tmp_path: Path) -> None:
    world = World(tmp_path)
    study, spent = world.run(10)
    assert spent
    assert [seen.trial.key for seen in study.history.told] == [f"n{i}" for i in range(10)]
    assert Counter(seen.trial.site for seen in study.history.told) == {"a": 4, "b": 3, "c": 3}
    told = world.of("trial")
    assert [event["number"] for event in told] == list(range(1, 11))
    assert [event["best"] for event in told] == [max(e["dice"] for e in told[: i + 1]) for i in range(10)]
    assert all(event["bytes_up"] > 0 and event["bytes_down"] > 0 for event in told)


def test_a_searcher_that_has_nothing_left_ends_the_loop(tmp_path: Path) -> None:
    study, spent = World(tmp_path, limit=4).run(10)
    assert not spent
    assert len(study.history.told) == 4


@pytest.mark.parametrize("fault", ["fails", "raises", "nan"])
def test_a_site_that_fails_every_trial_is_left_out_and_the_others_go_on(tmp_path: Path, fault: str) -> None:
    world = World(tmp_path, {"b": fault})
    study, spent = world.run(12)
    assert spent
    assert len(study.history.told) == 12 - STRIKES
    assert {seen.trial.site for seen in study.history.told} == {"a", "c"}
    assert [miss["site"] for miss in world.of("miss")] == ["b"] * STRIKES
    assert [(warning["site"], "left out" in warning["text"]) for warning in world.of("warning")] == [("b", True)]


def test_when_no_site_can_do_a_trial_the_search_says_so_and_keeps_its_journal(tmp_path: Path) -> None:
    with pytest.raises(OmniFedError) as caught:
        World(tmp_path, dict.fromkeys(SITES, "fails")).run(30)
    assert caught.value.code == "OF765"
    study, _ = World(tmp_path).run(12)  # mended: told trials would have been kept, and new ones count
    assert len(study.history.told) == 12 - 3 * STRIKES


def test_without_any_site_it_says_who_was_missing(tmp_path: Path) -> None:
    with pytest.raises(OmniFedError, match="none of a, b, c") as caught:
        World(tmp_path).run(3, sites=("stranger",))
    assert caught.value.code == "OF766"


def test_a_killed_loop_goes_on_with_the_same_trials(tmp_path: Path) -> None:
    whole, _ = World(tmp_path / "whole").run(9)
    world = World(tmp_path / "cut", dict.fromkeys(SITES, "killed"))
    with pytest.raises(KeyboardInterrupt):
        world.run(9)
    world.faults = {}
    study, _ = world.run(9)
    assert sorted(seen.trial.id for seen in study.history.told) == sorted(seen.trial.id for seen in whole.history.told)
    repeated = [task for task, times in Counter(world.log).items() if times > 1]
    assert len(repeated) <= len(SITES), "only what was on its way is asked again"


def test_what_was_on_its_way_when_the_budget_was_asked_is_asked_again(tmp_path: Path) -> None:
    world = World(tmp_path, dict.fromkeys(SITES, "killed"))
    with pytest.raises(KeyboardInterrupt):
        world.run(6)  # the fifth of six answers never came, and nothing is left to ask but what was asked
    world.faults = {}
    study, spent = world.run(6)
    assert spent
    assert len(study.history.told) == 6
    assert not study.history.pending


def test_what_a_site_that_has_gone_was_asked_is_asked_elsewhere(tmp_path: Path) -> None:
    world = World(tmp_path, dict.fromkeys(SITES, "killed"))
    with pytest.raises(KeyboardInterrupt):
        world.run(6)
    world.faults = {}
    study, _ = world.run(6, sites=("a",))
    assert len(study.history.told) == 6
    assert {seen.trial.site for seen in study.history.told[4:]} == {"a"}
