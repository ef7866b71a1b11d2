"""The card of a coordinator's folder and of a simulation's: what it says, and what it must not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from two_hospitals import NO_EXPORT, World, config

from omnifed.errors import OmniFedError
from omnifed.evaluation.score import SUPPRESSED
from omnifed.evaluation.tables import MetricRow, write_metrics
from omnifed_server.model_card import MODEL_CARD, write_card

NAN = float("nan")
SITE = {
    "name": "north", "modality": "ct", "channels": 1, "labels": ["background", "liver", "spleen"], "unit": "mm",
    "image_size": [64, 64], "train": 19, "unlabelled": 0, "val": 20, "test": 31, "held_out": False, "skipped": [],
}  # fmt: skip


def write_run(folder: Path, rows: list[MetricRow], **changes: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    values = {
        "role": "coordinator", "campaign": "liver-1a2b", "arms": ["fedbn"], "rounds": 5, "steps": 40, "seed": 0,
        "purpose": "research", "aggregation": {"mode": "mean", "rule": "norm-clip"}, "dp": None,
        "versions": {"omnifed": "0.5", "python": "3.11"}, **changes,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(values))
    (folder / "sites.json").write_text(json.dumps([SITE]))
    costs = {"student": "omnisegnet:a", "params": 1500000, "macs": 9, "size": "64 x 64", "exported_arm": "fedbn"}
    (folder / "costs.json").write_text(json.dumps(costs))
    event = {"time": "2026-03-01T10:00:00", "event": "export", "arm": "fedbn", "site": "north", "sha256": "ab" * 32}
    (folder / "events.jsonl").write_text(json.dumps(event) + "\n")
    write_metrics(folder / "metrics.csv", rows)
    return folder


def row(label: str, mean: float, n: int, metric: str = "dice") -> MetricRow:
    return MetricRow("fedbn", "north", "test", label, metric, mean, NAN if n < 2 else mean - 0.1, mean + 0.1, n)


ROWS = [row("liver", 0.812, 31), row("spleen", 0.777, 19), row("mean", 0.801, 31), row("liver", 9.5, 31, "hd95")]


def card(run: Path) -> str:
    return write_card(run).read_text()


def test_what_a_clinician_asks_is_there(tmp_path):
    text = card(write_run(tmp_path / "run", ROWS))
    assert text.startswith("# Model card: liver-1a2b\n")
    for part in ("Intended use", "Model", "Data, by site", "Privacy", "Scores", "Limits", "How to verify a model"):
        assert f"\n## {part}\n" in text
    assert "**Research use only. Not a medical device.**" in text
    assert "| north | liver | 0.812 [0.712, 0.912] | 9.5 mm [9.4, 9.6] |  | 31 |" in text
    assert "| north | foreground mean | 0.801" in text
    assert f"north: sha256 `{'ab' * 32}`" in text
    assert "omnifed 0.5, python 3.11" in text
    assert "1,500,000 weights" in text


def test_few_cases_are_left_out_whatever_a_site_told(tmp_path):
    text = card(write_run(tmp_path / "run", ROWS))
    assert "0.777" not in text
    assert "| north | spleen | suppressed (fewer than 20 cases) |" in text
    assert "| north | ct | liver, spleen | fewer than 20 | 0 | 20 | 31 |" in text


def test_what_a_site_kept_back_stays_so(tmp_path):
    kept = MetricRow("fedbn", "north", "test", "spleen", SUPPRESSED, 50.0, NAN, NAN, 0)
    text = card(write_run(tmp_path / "run", [ROWS[0], kept, ROWS[2]]))
    assert "| north | spleen | suppressed (fewer than 50 cases) |" in text


def test_phantoms_are_nobody_and_hide_nothing(tmp_path):
    text = card(write_run(tmp_path / "run", ROWS, role="", data=""))
    assert "synthetic phantoms" in text
    assert "0.777" in text
    assert "| 19 |" in text
    assert "suppressed" not in card(write_run(tmp_path / "run", ROWS, role="", data=""))
    assert "suppressed" in card(write_run(tmp_path / "run", ROWS, role="", data="/hospital"))


@pytest.mark.parametrize(
    ("aggregation", "words"),
    [
        ({"mode": "private"}, "the sum of the updates, no single one"),
        ({"mode": "robust", "rule": "median"}, "(rule median)"),
        ({"mode": "mean"}, "saw each site's update and averaged"),
    ],
)
def test_how_updates_were_combined(tmp_path, aggregation, words):
    assert words in card(write_run(tmp_path / "run", ROWS, aggregation=aggregation))


def test_differential_privacy_is_what_was_promised(tmp_path):
    text = card(write_run(tmp_path / "run", ROWS, dp={"epsilon": 3.0, "delta": 0.0, "clip": 1.0}))
    assert "epsilon at most 3 a site, delta n^-1.1" in text
    assert "No differential privacy" in card(write_run(tmp_path / "run", ROWS))


def test_a_label_is_no_markup(tmp_path):
    hostile = "x|y](http://evil) <img src=x>\n# head"
    text = card(write_run(tmp_path / "run", [row(hostile, 0.8, 30), ROWS[2]]))
    assert r"x\|y\](http://evil) \<img src=x\> \# head" in text
    assert "\n# head" not in text


def test_what_was_not_done_is_said(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    text = card(tmp_path)
    assert "The models were not tested." in text
    assert "not recorded" in text
    with pytest.raises(OmniFedError, match="OF422"):
        write_card(tmp_path / "nothing")


def test_a_campaign_leaves_a_card_that_names_no_patient(tmp_path):
    world = World(tmp_path)
    world.start(config(arms=("fedbn",), rounds=1, stages=NO_EXPORT))
    text = (world.run / MODEL_CARD).read_text()
    assert "| north | mri | square | fewer than 20 |" in text
    assert "| north | square | suppressed (fewer than 20 cases) |" in text
    assert "PATIENT" not in text
    assert str(tmp_path) not in text
