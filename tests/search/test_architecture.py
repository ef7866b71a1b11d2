"""Anchors first, brief trials, the best go on; the same history asks the same; what is found and why."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from small_space import SITES, by_size, ran, searching

from omnifed.errors import OmniFedError
from omnifed.models.spec import StudentSpec
from omnifed.search import dice_model
from omnifed.search.results import ArchitectureResult, Difference
from omnifed.search.trials import History

METHODS = ("surrogate", "nsga2", "random")


def result(search, history: History) -> ArchitectureResult:
    return search.result(history, stopped="done", cost=0.5, image_size=(64, 64))


@pytest.fixture(scope="module", autouse=True)
def rough():
    """Hyperparameters in few steps: who is asked for what does not hang on their last digits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dice_model, "STEPS", 15)
        yield


@pytest.fixture(scope="module")
def searched(rough):
    search = searching()
    return search, ran(search, 12)


def test_each_site_starts_with_the_anchor_also_one_that_joins_late(searched) -> None:
    search, history = searched
    first = search.ask(History(), SITES)
    assert [(t.site, t.why, t.steps, t.fraction) for t in first] == [("a", "anchor", 20, 0.2), ("b", "anchor", 20, 0.2)]
    assert (first[0].student.alpha, first[0].student.beta) == (1.0, 1.0)
    (late,) = search.ask(history, ["c"])
    assert (late.site, late.why, late.key) == ("c", "anchor", first[0].key)


@pytest.mark.parametrize("method", METHODS)
def test_the_same_history_asks_the_same_and_never_twice(method: str) -> None:
    search = searching(method=method)
    history = ran(search, 9)
    assert len({one.trial.id for one in history.told}) == 9
    again = searching(method=method).ask(history, SITES)
    assert again == search.ask(history, SITES)
    pending = replace(history, pending=(again[0],), asked=history.asked + 1)
    (other,) = search.ask(pending, ["b"])
    assert other.key != again[0].key


def test_a_third_goes_on_to_the_next_rung(searched) -> None:
    history = searched[1]
    trials = [one.trial for one in history.told]
    brief = [trial.key for trial in trials if trial.steps == 20]
    long = [(trial.key, trial.site) for trial in trials if trial.steps == 60]
    assert 1 <= len(set(long)) == len(long) <= len(brief) // 3
    assert {key for key, _ in long} <= set(brief)
    assert {trial.why for trial in trials if trial.steps == 60} == {"promoted"}


def test_what_a_site_cannot_do_is_not_asked_of_it_again() -> None:
    search = searching(alpha=(0.6, 0.7), beta=(0.5, 0.55))
    anchor = search.ask(History(), ["a"])[0]
    history = History(failed=(anchor,), asked=1)
    (other,) = search.ask(history, ["a"])
    assert other.key != anchor.key


def test_networks_over_the_budget_are_never_tried_but_the_anchor() -> None:
    search = searching(latency_ms=60)
    assert 0 < search.usable.sum() < len(search.space)
    assert not search.usable[search.anchor]
    history = ran(search, 8)
    tried = {search.space.index[one.trial.key] for one in history.told} - {search.anchor}
    assert search.usable[sorted(tried)].all()
    (device,) = result(search, history).devices
    assert all(member.p95_ms <= 60 for member in device.front)


def test_a_small_space_is_tried_at_all_sites_and_then_nothing_is_asked() -> None:
    search = searching(alpha=(0.6, 0.7), beta=(0.5, 0.55), rungs=1)
    history = ran(search, 50)
    assert len(search.space) == 4
    assert len(history.told) == 8


def test_the_best_within_the_budget_is_chosen_and_the_variants_are_held_against_the_front(searched) -> None:
    search, history = searched
    found = result(search, history)
    (device,) = found.devices
    students = {network.key: network.student for network in found.networks}
    assert students[device.chosen].beta > 1.1
    assert device.chosen in {member.key for member in device.front}
    assert "highest expected Dice" in device.reason or "of the best" in device.reason
    assert [member.p95_ms for member in device.front] == sorted(member.p95_ms for member in device.front)
    assert [variant.name for variant in device.variants] == ["compact", "balanced"]
    effects = {site.site: site.effect for site in found.sites}
    assert effects["a"] - effects["b"] == pytest.approx(0.2, abs=0.03)
    assert [step.number for step in found.history] == list(range(1, 13))
    assert (np.diff([step.best for step in found.history]) >= 0).all()
    assert (found.trials, found.failed, found.seconds) == (12, 0, 12.0)
    member = device.front[0]
    network = next(n for n in found.networks if n.key == member.key)
    fitness = network.dice - 0.1 * member.p95_ms / 1e3 - 0.005 * network.params / 1e6 - 0.002 * 2 * network.macs / 1e9
    assert member.fitness == pytest.approx(fitness)


def test_a_variant_on_the_front_is_held_against_itself() -> None:
    search = searching(alpha=(1.0, 1.0), beta=(0.5, 1.0))
    (device,) = result(search, ran(search, 8)).devices
    balanced = next(variant for variant in device.variants if variant.name == "balanced")
    assert device.front[-1].key == balanced.key == balanced.better
    assert balanced.difference == Difference(points=0, low=0, high=0)
    assert balanced.verdict == "balanced lies on the front."


def test_if_all_trials_are_equal_the_fastest_is_taken_and_the_reason_says_so() -> None:
    search = searching()
    (device,) = result(search, ran(search, 6, lambda trial: 0.5)).devices
    assert "apart from no other" in device.reason
    assert device.chosen == device.front[0].key


def test_full_trainings_stay_the_same_while_they_come_back(searched) -> None:
    search, history = searching(full=4), searched[1]
    full = search.full(history)
    first = full.ask(history, SITES)
    assert {(t.steps, t.fraction, t.why) for t in first} == {(500, 1.0, "full")}
    done = ran_full(search, history)
    assert [one.trial.why for one in done.told].count("full") == 4
    assert search.full(done).networks == full.networks
    found = result(search, done)
    assert found.agreement is not None
    assert (found.agreement.brief, found.agreement.long, found.agreement.networks) == (20, 500, 4)
    assert found.agreement.full


def ran_full(search, history: History) -> History:
    from small_space import seen

    while trials := search.full(history).ask(history, SITES):
        told = tuple(seen(trial, min(1.0, by_size(trial) / 2)) for trial in trials)
        history = replace(history, told=history.told + told, asked=history.asked + len(trials))
    return history


@pytest.mark.parametrize("budgets", [{"latency_ms": 1.0}, {"memory_mib": 1.0}])
def test_a_budget_that_no_network_meets_names_the_cheapest(budgets: dict[str, float]) -> None:
    with pytest.raises(OmniFedError, match=r"pi allows .* takes [0-9.]+ ms \(p95\) and [0-9]+ MiB") as caught:
        searching(**budgets)
    assert caught.value.code == "OF740"


def test_a_space_without_the_anchor_takes_the_nearest() -> None:
    search = searching(alpha=(0.6, 0.8), beta=(0.5, 0.7))
    at = search.space.networks[search.anchor].student
    assert at == StudentSpec(alpha=0.8, beta=0.7, stem_stride=2)
