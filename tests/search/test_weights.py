"""The search for OmniKD's weights: first points, a pure function of the history, late sites, what it ends with."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omnifed.distill.spec import LAMBDA, TERMS
from omnifed.errors import OmniFedError
from omnifed.models.spec import StudentSpec
from omnifed.search.acquisition import step_times
from omnifed.search.lambda_model import named, vector
from omnifed.search.results import WeightResult
from omnifed.search.spec import WeightSpec
from omnifed.search.trials import History, Observation, Trial, make_trial, weights_key
from omnifed.search.weight_result import band
from omnifed.search.weights import WeightSearch
from omnifed_sim.weight_surrogate import SITES, WeightSurrogate

MEAN = vector(LAMBDA["universal"])


def search(sites: Sequence[str] = SITES, gamma: float = 0.0) -> WeightSearch:
    return WeightSearch("study", WeightSpec(gamma=gamma), StudentSpec(), sites)


def trial(site: str, values: Sequence[float]) -> Trial:
    weights = named(values)
    key = weights_key(weights)
    return make_trial("s", key, site, steps=40, fraction=0.2, student=StudentSpec(), why="random", weights=weights)


def seen(site: str, values: Sequence[float], dice: float = 0.7, step_seconds: float = 0.0) -> Observation:
    return Observation(
        trial=trial(site, values), dice=dice, se=0.005, n=20, seconds=10.0, step_seconds=step_seconds
    )  # fmt: skip


def scattered(surrogate: WeightSurrogate, sites: Sequence[str], each: int) -> History:
    """The first points, and random ones within 0.8 of Table 3's mean."""
    rng = np.random.default_rng(0)
    start = [vector(weights) for weights in search().start]
    points = [(site, p) for site in sites for p in (*start, *(MEAN + rng.uniform(-0.8, 0.8, (each - 6, 5))))]
    told = tuple(surrogate.observe(trial(site, values)) for site, values in points)
    return History(told=told, asked=len(told))


def go_on(searcher: WeightSearch, surrogate: WeightSurrogate, history: History, sites: Sequence[str]) -> History:
    trials = searcher.ask(history, sites)
    told = tuple(surrogate.observe(one) for one in trials)
    return replace(history, told=history.told + told, asked=history.asked + len(trials))


def test_all_sites_start_with_table_3s_mean_and_the_same_five_around_it() -> None:
    searcher, history = search(), History()
    for number in range(6):
        trials = searcher.ask(history, SITES)
        assert [one.site for one in trials] == list(SITES)
        assert len({one.key for one in trials}) == 1
        assert {one.why for one in trials} == {"warm start" if number else "anchor"}
        if not number:
            assert trials[0].weights == LAMBDA["universal"]
        told = tuple(seen(one.site, vector(one.weights or {})) for one in trials)
        history = replace(history, told=history.told + told, asked=history.asked + 6)
    points = np.unique([vector(one.trial.weights or {}) for one in history.told], axis=0)
    assert len(points) == 6
    # Up or down by 0.6 of the mean: 1.72 is tried at 0.688 and 2.752.
    assert sorted(set(points[:, 0])) == [0.688, 1.72, 2.752]
    assert ((points > 0) & (points < 3)).all()


def test_where_time_counts_each_first_point_leaves_one_term_out() -> None:
    start = search(gamma=0.1).start
    assert [[term for term in TERMS if weights[term] == 0] for weights in start] == [[], *([term] for term in TERMS)]


def test_what_is_asked_is_a_function_of_the_history_alone() -> None:
    surrogate = WeightSurrogate(shifted=True)
    history = scattered(surrogate, SITES[:3], 7)
    history = replace(history, pending=(trial("oct", MEAN),))
    first = search().ask(history, SITES[:2])
    again = replace(
        history,
        told=tuple(Observation.model_validate_json(one.model_dump_json()) for one in history.told),
        pending=tuple(Trial.model_validate_json(one.model_dump_json()) for one in history.pending),
    )
    np.random.default_rng().random()
    assert search().ask(again, SITES[:2]) == first
    assert [one.why for one in first] == ["model", "model"]
    assert [one.site for one in first] == list(SITES[:2])
    assert all(0 <= v <= 3 for one in first for v in vector(one.weights or {}))
    # What is on its way counts: the second site's question changes with the first's.
    assert search().ask(history, SITES[1:2])[0].key != first[1].key
    # Another seed draws otherwise.
    assert WeightSearch("study", WeightSpec(seed=5), StudentSpec(), SITES).ask(history, SITES[:1]) != first[:1]


def test_a_lost_trial_is_asked_again_and_a_point_that_failed_is_not() -> None:
    anchor = search().ask(History(), ["ct"])[0]
    lost = search().ask(History(asked=1), ["ct"])[0]
    assert lost.id == anchor.id
    failed = search().ask(History(asked=1, failed=(anchor,)), ["ct", "mri"])
    assert failed[0].key != anchor.key
    assert failed[1].key == anchor.key
    # Nothing was told and all first points failed: there is no model yet, but a question.
    history = History(asked=6, failed=tuple(trial("ct", vector(weights)) for weights in search().start))
    assert search().ask(history, ["ct"])[0].why == "random"


def test_a_point_that_is_asked_once_more_is_a_repeat_with_its_own_id() -> None:
    searcher = search(["a"])
    history = History(told=(seen("a", MEAN),), pending=(trial("b", MEAN),))
    first = searcher._trial(History(), (), "a", LAMBDA["universal"], "model")
    again = searcher._trial(history, history.pending, "a", LAMBDA["universal"], "model")
    assert (first.repeat, again.repeat) == (0, 1)
    assert first.id != again.id


def test_goes_to_where_the_scores_are_better() -> None:
    surrogate, searcher = WeightSurrogate(shifted=True), search(SITES[:2])
    history = scattered(surrogate, SITES[:2], 12)
    tried = np.mean([one.dice for one in history.told[6:12] + history.told[18:24]])
    for _ in range(2):
        history = go_on(searcher, surrogate, history, SITES[:2])
    assert np.mean([one.dice for one in history.told[-4:]]) > tried + 0.02


def test_finds_shifted_optima_from_twelve_trials_a_site() -> None:
    surrogate = WeightSurrogate(shifted=True)
    result = search().result(scattered(surrogate, SITES, 12), stopped="spent")
    lost = np.mean([surrogate.regret(row.site, row.weights) for row in result.sites])
    unsearched = np.mean([surrogate.regret(site, LAMBDA["universal"]) for site in SITES])
    assert lost < 1.5
    assert lost < 0.5 * unsearched
    assert result.told_apart


def test_a_site_that_comes_late_starts_with_the_mean_and_the_others_optima() -> None:
    surrogate = WeightSurrogate()
    history = scattered(surrogate, ["ct", "mri"], 14)
    searcher = search(["ct", "mri"])
    history = go_on(searcher, surrogate, history, ["oct"])
    assert history.told[-1].trial.why == "anchor"
    history = go_on(searcher, surrogate, history, ["oct"])
    assert history.told[-1].trial.why == "warm start"
    near = vector(history.told[-1].trial.weights or {})
    optima = [surrogate.optimum(site) for site in ("ct", "mri")]
    assert np.linalg.norm(near - np.mean(optima, axis=0)) < 0.8
    for _ in range(3):
        history = go_on(searcher, surrogate, history, ["oct"])
    assert history.told[-1].trial.why == "model"
    assert len({one.trial.id for one in history.told}) == len(history.told)


def test_the_result_says_what_the_history_says() -> None:
    surrogate = WeightSurrogate(shifted=True)
    history = scattered(surrogate, SITES[:3], 16)
    history = replace(history, failed=(trial("ct", [0.0] * 5),))
    result = search(SITES[:4]).result(history, stopped="spent", latency_ms=12.5)
    assert WeightResult.model_validate_json(result.model_dump_json()) == result
    assert (result.trials, result.failed, result.stopped, result.latency_ms) == (48, 1, "spent", 12.5)
    assert result.seconds == pytest.approx(sum(one.seconds for one in history.told))
    assert [row.trials for row in result.sites] == [16, 16, 16, 0]
    # The fourth has no observation: it takes the universal weights, and loses nothing against them.
    assert result.sites[3].weights == result.universal.weights
    assert result.sites[3].universal_loss == pytest.approx(0, abs=1e-9)
    assert result.sites[3].sd > 2 * result.sites[0].sd
    for row in result.sites[:3]:
        assert row.dice == pytest.approx(float(surrogate.score(row.site, np.array(vector(row.weights)))), abs=0.05)
        gain = surrogate.regret(row.site, LAMBDA["universal"]) - surrogate.regret(row.site, row.weights)
        assert row.gain.low < gain < row.gain.high
        assert row.universal_loss > -1e-9
        assert row.fitness == row.dice  # gamma is 0
    assert [step.number for step in result.history] == list(range(1, 49))
    assert [step.best for step in result.history] == sorted(step.best for step in result.history)
    effect = [step.dice - step.corrected for step in result.history if step.site == "oct"]
    assert not effect
    assert len({round(step.dice - step.corrected, 9) for step in result.history if step.site == "ct"}) == 1


def test_equal_scores_are_not_told_apart() -> None:
    rng = np.random.default_rng(0)
    told = [seen(site, rng.uniform(0, 3, 5)) for site in ("a", "b") for _ in range(8)]
    result = search(["a", "b"]).result(History(told=tuple(told)), stopped="spent")
    assert not result.told_apart
    assert result.universal.gain.points == pytest.approx(0, abs=0.01)
    noisy = tuple(replace_dice(one, 0.7 + 0.01 * float(rng.standard_normal())) for one in told)
    assert not search(["a", "b"]).result(History(told=noisy), stopped="spent").told_apart


def replace_dice(one: Observation, dice: float) -> Observation:
    return one.model_copy(update={"dice": dice})


def test_a_term_that_costs_more_than_it_brings_is_left_out() -> None:
    rng = np.random.default_rng(0)
    told = []
    for values in rng.uniform(0, 3, (30, 5)) * (rng.random((30, 5)) > 0.2):
        dice = 0.8 - 0.02 * (values[0] - 1.5) ** 2 - 0.02 * (values[2] - 1.0) ** 2  # features bring nothing
        told.append(seen("a", values, float(dice), 0.2 + 0.1 * float(values[1] > 0)))
    history = History(told=tuple(told), asked=30)
    free, dear = (search(["a"], gamma).result(history, stopped="spent") for gamma in (0.0, 0.1))
    assert dear.term_seconds == pytest.approx({**dict.fromkeys(TERMS, 0.0), "features": 0.1}, abs=1e-3)
    assert dear.base_seconds == pytest.approx(0.2, abs=1e-3)
    own = dear.sites[0]
    assert own.weights["features"] == 0
    assert own.weights["logits"] == pytest.approx(1.5, abs=0.4)
    assert own.step_seconds == pytest.approx(0.2, abs=1e-3)
    assert own.fitness == pytest.approx(own.dice - 0.1 * own.step_seconds)
    assert free.sites[0].fitness == free.sites[0].dice


def test_scores_that_are_not_finite_are_refused() -> None:
    bad = replace_dice(seen("a", MEAN), float("nan"))
    start = tuple(seen("a", vector(weights)) for weights in search().start)
    for call in (lambda h: search(["a"]).ask(h, ["a"]), lambda h: search(["a"]).result(h, stopped="spent")):
        with pytest.raises(OmniFedError) as caught:
            call(History(told=(*start, bad)))
        assert caught.value.code == "OF750"
    with pytest.raises(OmniFedError) as caught:
        search(["a"]).result(History(), stopped="spent")
    assert caught.value.code == "OF751"


@settings(max_examples=50, deadline=None)
@given(
    base=st.floats(0.01, 2),
    terms=st.lists(st.floats(0, 0.5), min_size=5, max_size=5),
    slow=st.floats(0.5, 4),
)
def test_step_times_are_recovered_where_each_term_was_left_out_once(
    base: float, terms: list[float], slow: float
) -> None:
    told = []
    for left_out in (None, *range(5)):
        active = [float(term != left_out) for term in range(5)]
        told += [
            seen(site, active, step_seconds=speed * (base + float(np.dot(active, terms))))
            for site, speed in (("a", 1.0), ("b", slow), ("c", 1.0))
        ]
    found = step_times(told)
    for site, speed in (("a", 1.0), ("b", slow)):
        assert found.seconds(named([1, 1, 1, 1, 0]), site) == pytest.approx(speed * (base + sum(terms[:4])), rel=1e-3)


def test_without_times_a_step_costs_nothing() -> None:
    assert step_times([seen("a", MEAN)]).seconds(LAMBDA["universal"], "a") == 0


def test_the_band_of_one_figure_is_the_normal_interval_and_of_many_wider() -> None:
    draws = np.random.default_rng(0).standard_normal((200_000, 3))
    assert band(np.array([1.0]), draws[:, :1]) == pytest.approx(1.96, abs=0.02)
    # Three independent: the 0.95 ** (1 / 3) quantile of |normal| is 2.388.
    assert band(np.array([1.0, 2.0, 3.0]), draws * [1.0, 2.0, 3.0]) == pytest.approx(2.388, abs=0.02)
    assert band(np.array([1.0, 0.0]), draws[:, :2] * [1.0, 0.0]) == pytest.approx(1.96, abs=0.02)
    assert band(np.zeros(2), np.zeros((5, 2))) == 0


def test_asking_compiles_nothing(tmp_path: Path) -> None:
    script = """
import sys
import numpy as np
from test_weights import SITES, WeightSurrogate, scattered, search
assert search().ask(scattered(WeightSurrogate(), SITES, 6), ["ct"])[0].why == "model"
assert "torch.utils.cpp_extension" not in sys.modules
assert "torch._inductor" not in sys.modules
"""
    kept = tmp_path / "extensions"
    environment = {**os.environ, "TORCH_EXTENSIONS_DIR": str(kept), "PYTHONPATH": str(Path(__file__).parent)}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True, timeout=120)
    assert not kept.exists()
