import json
import sys
from pathlib import Path

import edge_report
import pytest
from edge.pareto import Point, front, short
from edge.runs import run_file
from edge.scores import Case, by_case, difference, mean

STUDENT, RIVAL = "omnisegnet:compact,stem_stride=2", "cmunext-s"


def row(site: str, case: str, patient: str, dice: float, label: str = "a", split: str = "test") -> dict[str, object]:
    return {"site": site, "case": case, "patient": patient, "label": label, "dice": dice, "split": split}


def test_a_case_is_the_mean_of_its_labels_in_the_split() -> None:
    rows = [row("s", "c", "p", 0.5), row("s", "c", "p", 1.0, "b"), row("s", "d", "q", 0.1, split="val")]
    assert {case: own.dice for case, own in by_case(rows, 2).items()} == {Case(2, "s", "c"): 0.75}


def test_a_patient_of_two_seeds_is_one() -> None:
    scores = by_case([row("s", "c", "p", 0.5), row("s", "d", "q", 0.7)], 0) | by_case([row("s", "c", "p", 0.9)], 1)
    found = mean(scores)
    assert (found.mean, found.n, found.groups) == (pytest.approx(0.7), 3, 2)


def test_a_difference_is_over_the_cases_that_both_have() -> None:
    first = by_case([row("s", "c", "p", 0.5), row("t", "c", "p", 0.7), row("t", "d", "q", 0.7)], 0)
    second = by_case([row("s", "c", "p", 0.4), row("t", "c", "p", 0.4)], 0)
    whole, own = difference(first, second), difference(first, second, "t")
    assert (whole.mean, whole.n, whole.groups) == (pytest.approx(0.2), 2, 2)  # equal keys at two sites are two patients
    assert (own.mean, own.n) == (pytest.approx(0.3), 1)


def test_the_front_holds_what_none_beats_in_both() -> None:
    points = [Point(*p, "", True) for p in ((2.0, 0.7), (1.0, 0.6), (3.0, 0.65), (1.0, 0.5), (4.0, 0.8))]
    assert [(p.ms, p.dice) for p in front(points)] == [(1.0, 0.6), (2.0, 0.7), (4.0, 0.8)]


def test_labels_are_short() -> None:
    assert short("omnisegnet:compact,stem_stride=2,fusion=depthwise,branches=true,se=false") == (
        "compact, stem 2, depthwise fusion, branches, no se"
    )
    assert short("cmunext-s") == "cmunext-s"


def write_runs(out: Path) -> None:
    for name, gain in ((RIVAL, 0.0), (STUDENT, 0.1)):
        for seed in (0, 1):
            rows = [row("isic", f"c{i}", f"p{i}", 0.5 + gain + i / 100) for i in range(3)]
            file = run_file(out, name, seed)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps({"network": name, "seed": seed, "cases": rows}))


def figures(ms: float) -> dict[str, object]:
    ways = [f"{way} {n}" for way in ("ort fp32", "openvino fp32", "openvino bf16") for n in (1, 2)]
    return {
        "parameters": 1_500_000,
        "gmac": 0.5,
        "bytes": {"fp32": 2**20},
        "peak_mib": {"ort fp32": 80.0, "openvino fp32": 120.0},
        "latency": {way: {"p50_ms": ms} for way in ways},
        "roofline": {"ort": 0.5, "openvino": 0.8},
    }


def report(out: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(sys, "argv", ["edge_report.py", str(out), "--pair", STUDENT, RIVAL])
    edge_report.main()
    return (out / "report.md").read_text()


def test_dice_alone_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_runs(tmp_path)
    page = report(tmp_path, monkeypatch)
    lines = [[cell.strip() for cell in line.strip("| ").split("|")] for line in page.splitlines()]
    assert [RIVAL, "0.510", "0.510", "0.500 .. 0.520", "0,1"] in lines
    assert [f"{STUDENT} - {RIVAL}", "all sites", "+10.00", "+10.00 .. +10.00", "0.250", "6", "3", "-", "-"] in lines
    assert "Latency" not in page
    assert not (tmp_path / "pareto.svg").exists()


def test_latency_gives_ratios_and_a_plot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_runs(tmp_path)
    about = {"machine": "a CPU", "image_size": 256, "rounds": 9, "waited": 0.01, "sgemm_gflops": {"sgemm ort 8": 90.0}}
    networks = {STUDENT: figures(5.0), RIVAL: figures(20.0)}
    (tmp_path / "latency.json").write_text(json.dumps(about | {"networks": networks}))
    lost = {"dice": 0.6, "points": -0.2, "low": -0.3, "high": 0.1, "cases": 3}
    (tmp_path / "precision.json").write_text(json.dumps({STUDENT: {"ort fp32": lost, "ort int8": lost}}))
    page = report(tmp_path, monkeypatch)
    assert "|      0.25 |           0.25 |" in page
    assert "80 %" in page
    assert "-0.20 [-0.30, +0.10]" in page
    svg = (tmp_path / "pareto.svg").read_text()
    assert svg.count("OpenVINO, bf16") == 1
    assert (tmp_path / "pareto.png").stat().st_size > 10_000
    report(tmp_path, monkeypatch)
    assert (tmp_path / "pareto.svg").read_text() == svg
