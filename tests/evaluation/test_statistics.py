from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omnifed.evaluation.statistics import bootstrap_mean, paired_difference


def test_mean_over_cases_by_hand():
    interval = bootstrap_mean(np.array([1.0, 2.0, np.nan, 6.0]), ["a", "a", "b", "c"])
    assert interval.mean == 3.0
    assert (interval.n, interval.groups) == (3, 2)
    # Two patients, (3, 2 cases) and (6, 1 case): a draw is one of 1.5, 3, 6; the ends are each drawn with p = 1/4.
    assert (interval.low, interval.high) == (1.5, 6.0)


def test_cases_of_one_patient_are_not_independent():
    rng = np.random.default_rng(0)
    level = rng.normal(size=20)
    values = np.repeat(level, 10) + 0.01 * rng.normal(size=200)
    by_patient = bootstrap_mean(values, [f"p{i // 10}" for i in range(200)])
    by_case = bootstrap_mean(values, [f"p{i}" for i in range(200)])
    assert by_patient.high - by_patient.low > 2 * (by_case.high - by_case.low)
    # Normal theory for 20 independent patients: +- 1.96 s / sqrt(20).
    width = 2 * 1.96 * level.std() / math.sqrt(20)
    assert by_patient.high - by_patient.low == pytest.approx(width, rel=0.15)


@pytest.mark.parametrize(("values", "mean"), [([], math.nan), ([math.nan], math.nan), ([0.5, 0.7], 0.6)])
def test_below_two_patients_there_is_no_interval(values, mean):
    interval = bootstrap_mean(np.array(values), ["only"] * len(values))
    assert interval.mean == pytest.approx(mean, nan_ok=True)
    assert math.isnan(interval.low)
    assert math.isnan(interval.high)
    assert math.isnan(paired_difference(np.array(values), np.array(values), ["only"] * len(values)).p)


def test_exact_p_by_hand():
    # Three patients, all better by 1: only +++ and --- reach |mean| = 1, so p = 2 / 8.
    d = paired_difference(np.array([2.0, 3.0, 4.0]), np.array([1.0, 2.0, 3.0]), ["a", "b", "c"])
    assert (d.mean, d.low, d.high, d.p) == (1.0, 1.0, 1.0, 0.25)
    same = paired_difference(np.ones(3), np.ones(3), ["a", "b", "c"])
    assert (same.mean, same.p) == (0.0, 1.0)


def test_random_flips_agree_with_a_clear_and_with_no_effect():
    rng = np.random.default_rng(1)
    noise = rng.normal(size=40)
    names = [str(i) for i in range(40)]
    assert paired_difference(noise + 2, np.zeros(40), names).p < 0.001
    assert paired_difference(noise - noise.mean(), np.zeros(40), names).p > 0.9


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 1), st.sampled_from("abcdef")), min_size=1, max_size=30),
    st.integers(0, 5),
)
def test_properties(pairs, seed):
    values, groups = np.array([v for v, _ in pairs]), [g for _, g in pairs]
    interval = bootstrap_mean(values, groups, draws=200, seed=seed)
    assert interval == bootstrap_mean(values, groups, draws=200, seed=seed) or math.isnan(interval.low)
    assert interval.mean == pytest.approx(values.mean())
    if interval.groups > 1:
        assert values.min() - 1e-9 <= interval.low <= interval.high <= values.max() + 1e-9
    forth = paired_difference(values, 1 - values, groups, draws=50)
    back = paired_difference(1 - values, values, groups, draws=50)
    assert forth.mean == pytest.approx(-back.mean)
    assert forth.p == pytest.approx(back.p, nan_ok=True)
    assert math.isnan(forth.p) or 0 < forth.p <= 1


def test_many_patients_need_little_memory():
    values = np.random.default_rng(0).random(20_000)
    interval = bootstrap_mean(values, [str(i) for i in range(20_000)], draws=300)
    assert interval.low < values.mean() < interval.high
