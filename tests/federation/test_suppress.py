"""What a reply says of few patients."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnifed.evaluation.score import MEAN, SUPPRESSED, Score
from omnifed.evaluation.tables import metric_rows
from omnifed.federation.replies import REPLY, EvaluateReply, FitReply, HelloReply, Reply, TeachReply, TrialReply
from omnifed.federation.suppress import few, suppress, suppressed


def score(label: str, n: int, metric: str = "dice", mean: float = 0.5) -> Score:
    return Score(metric=metric, label=label, mean=mean, ci_low=0.4, ci_high=0.6, n=n)


def hello(**counts: int) -> HelloReply:
    return HelloReply(
        id="h", site="north", version="1", channels=1, classes=2, labels=("background", "lesion"), modality="ct",
        image_size=(32, 32), **counts,
    )  # fmt: skip


def test_a_class_of_19_cases_loses_its_scores_and_one_of_20_keeps_them():
    reply = EvaluateReply(
        id="e", site="north", n=31, scores=(score("liver", 20), score("spleen", 19, mean=0.123), score(MEAN, 31))
    )
    got = suppress(reply, 20)
    assert isinstance(got, EvaluateReply)
    assert got.scores == (
        score("liver", 20),
        Score(metric=SUPPRESSED, label="spleen", mean=20, ci_low=None, ci_high=None, n=0),
        score(MEAN, 31),
    )
    assert got.n == 31
    assert "0.123" not in got.model_dump_json()
    assert suppress(got, 20) == got


def test_the_foreground_mean_too_and_the_number_of_cases():
    reply = EvaluateReply(id="e", site="north", n=7, scores=(score("lesion", 6), score(MEAN, 7)))
    got = suppress(reply, 20)
    assert [(s.label, s.metric, s.n) for s in got.scores] == [("lesion", SUPPRESSED, 0), (MEAN, SUPPRESSED, 0)]
    assert got.n == 19


def test_all_metrics_of_a_class_go_with_its_smallest_count():
    scores = (score("liver", 30), score("liver", 19, "hd95", 31.5), score("liver", 30, "nsd"))
    assert [(s.label, s.metric) for s in suppressed(scores, 20)] == [("liver", SUPPRESSED)]


def test_counts_of_few_look_all_the_same():
    got = suppress(hello(train=3, unlabelled=0, val=19, test=20, skipped=2), 20)
    assert (got.train, got.unlabelled, got.val, got.test, got.skipped) == (19, 0, 19, 20, 2)
    fit = FitReply(id="f", site="north", n=4, steps=1, loss={"ce": 1.0}, dice=0.5, adopted=True)
    assert suppress(fit, 20).n == 19
    trial = TrialReply(id="t", site="north", dice=0.5, se=0.1, n=5, patients=40, step_seconds=0.1)
    assert (suppress(trial, 20).n, suppress(trial, 20).patients) == (19, 40)


@pytest.mark.parametrize("min_cases", [0, 1])
def test_without_a_limit_nothing_changes(min_cases):
    for reply in (hello(train=1, val=0, test=2), EvaluateReply(id="e", site="n", n=1, scores=(score("a", 1),))):
        assert suppress(reply, min_cases) == reply


def test_what_carries_neither_class_nor_count_is_the_very_same():
    reply = TeachReply(
        id="t", site="north", teacher_id="x", dice=0.5, cached=3, cache_bytes=1, flip_error=0.0, joint_flips=True
    )
    assert suppress(reply, 20) is reply


def test_a_reader_of_any_release_takes_it():
    """The reply still has the schema of replies, and a reader of rows by metric finds none for the class."""
    reply: Reply = suppress(EvaluateReply(id="e", site="n", n=30, scores=(score("a", 3), score(MEAN, 30))), 20)
    assert REPLY.validate_json(reply.model_dump_json(exclude={"protocol"})) == reply
    rows = metric_rows("fedbn", "n", "test", reply.scores)
    assert [(r.label, r.metric, r.mean, r.n) for r in rows] == [("a", SUPPRESSED, 20, 0), (MEAN, "dice", 0.5, 30)]


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 40))
def test_counts_keep_their_order_and_nobody_stays_nobody(a, b, min_cases):
    assert (few(a, min_cases) <= few(b, min_cases)) or a > b
    assert (few(a, min_cases) == 0) == (a == 0)
    assert few(few(a, min_cases), min_cases) == few(a, min_cases)
    assert a == 0 or few(a, min_cases) >= min_cases - 1


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(("dice", "hd95")), st.integers(1, 40)), max_size=6,
             unique_by=lambda s: s[:2]),
    st.integers(1, 40),
)  # fmt: skip
def test_no_score_of_few_cases_is_left(rows, min_cases):
    scores = tuple(score(label, n, metric) for label, metric, n in rows)
    got = suppressed(scores, min_cases)
    assert {s.label for s in got} == {s.label for s in scores}
    assert all(s.n >= min_cases for s in got if s.metric != SUPPRESSED)
    assert suppressed(got, min_cases) == got
    lost = {s.label for s in got if s.metric == SUPPRESSED}
    assert not any(s.label in lost for s in got if s.metric != SUPPRESSED)
