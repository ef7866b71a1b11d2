from __future__ import annotations

import math
import stat

import numpy as np
import pytest

from omnifed.errors import OmniFedError
from omnifed.evaluation import tables
from omnifed.evaluation.metrics import CaseScores
from omnifed.evaluation.scores import summarise
from omnifed.federation.replies import REPLY, EvaluateReply

LABELS = ("background", "cup", "disc")
NAN = math.nan


@pytest.fixture
def cases() -> CaseScores:
    """Three cases of two patients; the cup is nowhere, the disc in all."""
    values = np.full((3, 2, 4), NAN)
    values[:, 1, 0] = (0.2, 0.4, 0.9)
    values[:, 1, 2] = (9.0, 7.0, 5.0)
    return CaseScores(values=values, patients=("p", "p", "q"), ids=("a", "b", "c"), unit="mm")


def test_summary_by_hand_leaves_out_what_no_case_defines(cases):
    scores = {(s.label, s.metric): s for s in summarise(cases, LABELS)}
    assert sorted(scores) == [("disc", "dice"), ("disc", "hd95"), ("mean", "dice"), ("mean", "hd95")]
    dice = scores["disc", "dice"]
    assert (dice.mean, dice.ci_low, dice.ci_high, dice.n) == pytest.approx((0.5, 0.3, 0.9, 3))
    assert (dice.unit, scores["disc", "hd95"].unit) == ("", "mm")


def test_one_patient_has_no_interval_and_the_reply_survives_json(cases):
    one = CaseScores(values=cases.values[:2], patients=("p", "p"), ids=("a", "b"), unit="px")
    scores = summarise(one, LABELS)
    assert scores[0].ci_low is None
    reply = EvaluateReply(id="t", site="s", n=2, scores=scores)
    assert REPLY.validate_json(REPLY.dump_json(reply)) == reply


def test_the_mean_of_a_case_is_over_its_defined_classes(cases):
    cases.values[0, 0, 0] = 0.6
    mean = {s.label: s.mean for s in summarise(cases, LABELS) if s.metric == "dice"}
    assert mean == pytest.approx({"cup": 0.6, "disc": 0.5, "mean": (0.4 + 0.4 + 0.9) / 3})


def test_labels_must_fit(cases):
    with pytest.raises(ValueError, match="2 labels"):
        summarise(cases, LABELS[:2])


def test_files_come_back_as_written(cases, tmp_path):
    rows = tables.metric_rows("omnikd", "eye", "test", summarise(cases, LABELS))
    rows.append(tables.MetricRow("teacher", "ünï", "test", 'a "quoted, name"', "dice", 0.5, NAN, NAN, 1))
    tables.write_metrics(tmp_path / "metrics.csv", rows)
    head = (tmp_path / "metrics.csv").read_text().splitlines()[0]
    assert head == "arm,site,split,class,metric,mean,ci_low,ci_high,n"
    back = tables.read_metrics(tmp_path / "metrics.csv")
    assert [r[:5] + r[8:] for r in back] == [r[:5] + r[8:] for r in rows]
    assert np.allclose([r[5:8] for r in back], [r[5:8] for r in rows], equal_nan=True)

    lines = tables.case_rows("omnikd", "eye", cases, LABELS)
    assert len(lines) == 3 * 2 * 2  # cases, (disc, mean), (dice, hd95)
    tables.write_cases(tmp_path / "cases.csv", lines)
    assert tables.read_cases(tmp_path / "cases.csv") == lines
    assert stat.S_IMODE((tmp_path / "cases.csv").stat().st_mode) == 0o600

    matrix = [tables.MatrixRow("fedbn", "eye", "knee", 0.25, 4)]
    tables.write_matrix(tmp_path / "matrix.csv", matrix)
    assert tables.read_matrix(tmp_path / "matrix.csv") == matrix


@pytest.mark.parametrize(
    "text", ["", "arm,site\n", "arm,site,split,class,metric,mean,ci_low,ci_high,n\na,s,test,x,dice,half,,,3\n"]
)
def test_a_broken_file_is_named_with_its_line(tmp_path, text):
    path = tmp_path / "metrics.csv"
    path.write_text(text)
    with pytest.raises(OmniFedError) as error:
        tables.read_metrics(path)
    assert error.value.code == "OF423"
    assert "metrics.csv, line" in error.value.seen
    assert str(tmp_path) not in error.value.public


@pytest.mark.parametrize(
    ("dice", "chosen"),
    [([0.1, 0.9, 0.5], (1, 2, 0)), ([NAN, 0.3], (1,)), ([NAN], ()), ([0.2, 0.8], (1, 0)), ([0.5, 0.5, 0.5], (0, 1, 2))],
)
def test_best_median_worst(dice, chosen):
    assert tables.choose_cases(np.array(dice)) == chosen
