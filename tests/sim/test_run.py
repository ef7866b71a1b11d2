"""`omnifed-sim` as a user runs it: the whole thing, tiny; and what happens when something goes wrong on purpose."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from omnifed.states import read_state
from omnifed_sim.config import SimConfig

SIM = Path(sys.executable).parent / "omnifed-sim"
TINY = [
    "--config", str(Path(__file__).with_name("small.toml")), "--preset", "hospitals", "--sites", "north,east",
    "--hold-out", "west", "--arms", "local,omnikd,central",
    "--rounds", "2", "--steps", "2", "--teacher-steps", "2", "--image-size", "32",
    "--student", "omnisegnet:alpha=0.6,beta=0.5,stem_stride=2",
]  # fmt: skip
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}


def sim(*options: str | Path, timeout: float = 240) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SIM, *map(str, options)], capture_output=True, text=True, timeout=timeout, env=ONE_THREAD, check=False
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("sim") / "run"
    done = sim("--out", run, *TINY)
    assert done.returncode == 0, done.stderr
    return run


def test_a_run_folder_holds_what_was_promised(finished: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    assert {
        "config.json", "events.jsonl", "metrics.csv", "cases.csv", "matrix.csv", "sites.json", "costs.json",
        "report.html", "model-north.onnx", "model-east.onnx", "predictions", "arms", "sites",
    } <= names  # fmt: skip
    with (finished / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["arm", "site", "split", "class", "metric", "mean", "ci_low", "ci_high", "n"]
    scored = {(row["arm"], row["site"]) for row in rows}
    assert {(arm, site) for arm in ("local", "omnikd", "central") for site in ("north", "east", "west")} <= scored
    assert {("teacher", "north"), ("teacher", "east")} <= scored
    events = [json.loads(line) for line in (finished / "events.jsonl").read_text().splitlines()]
    assert [e["site"] for e in events if e["event"] == "teach"] == ["north", "east"]
    assert not [e for e in events if e["event"] == "miss"]


def test_no_patient_key_is_in_tables_that_people_pass_on(finished: Path) -> None:
    with (finished / "sites.json").open() as file:
        assert "p00" not in file.read()
    with (finished / "cases.csv").open() as file:
        assert all(len(row["patient"]) == 16 for row in csv.DictReader(file))


def test_an_exported_model_predicts_without_torch(finished: Path) -> None:
    code = (
        "import sys, numpy as np; from omnifed.export.session import load; "
        f"s = load(__import__('pathlib').Path({str(finished / 'model-north.onnx')!r})); "
        "print(s.logits(np.zeros((2, 1, 32, 32), np.float32)).shape, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(2, 5, 32, 32) False"


def test_resuming_a_finished_run_changes_nothing(finished: Path) -> None:
    before = (finished / "metrics.csv").read_bytes()
    done = sim("--out", finished, "--resume")
    assert done.returncode == 0, done.stderr
    assert (finished / "metrics.csv").read_bytes() == before


REFUSE = """
import contextlib, io, json, sys
from omnifed_sim.cli import app

found = []
for options in json.loads(sys.argv[1]):
    status = None
    with contextlib.redirect_stderr(io.StringIO()) as said:
        try:
            app(options)
        except SystemExit as end:
            status = end.code
    found.append([status, said.getvalue(), [name for name in ("torch", "monai", "flwr") if name in sys.modules]])
print(json.dumps(found))
"""


def test_what_is_wrong_is_said_before_anything_is_made_or_loaded(tmp_path: Path) -> None:
    run, new, sites = tmp_path / "run", tmp_path / "new", tmp_path / "sites"
    run.mkdir()
    (run / "config.json").write_text(SimConfig().model_dump_json())
    (sites / "one").mkdir(parents=True)
    (sites / "one" / "index.csv").touch()
    (tmp_path / "sim.toml").write_text("rounds = 2\n[student]\nalpha = 1.0\ndepth = 3\n")
    (tmp_path / "slow.toml").write_text('[default]\ndevice = "toaster"\n')
    search = ["search", "architecture", "--out", new]
    refused: list[tuple[list[str | Path], str]] = [
        (["--out", new, "--preset", "nonsense"], "OF102: "),
        (["--out", new, "--arms", "magic"], "OF102: "),
        (["--out", new, "--search", "weight"], "OF102: "),
        (["--out", new, "--student", "omnisegnet:huge"], "OF301: "),
        (["--out", new, "--config", tmp_path / "sim.toml"], "student.depth"),
        (["--out", new, "--resume"], "OF121: "),
        (["--out", run], "OF120: "),
        (["--out", run, "--resume", "--rounds", "9"], "OF122: "),
        (["--out", new, "--data", tmp_path / "absent"], "OF111: "),
        (["--out", new, "--data", sites, "--split", "two:2"], "OF112: "),
        (["--out", run, "--overwrite", "--sites", "mars"], "OF112: "),
        (["--out", new, "--data", sites, "--hold-out", "one"], "OF113: "),
        (["--out", new, "--sites", "abdominal_ct,brain_mri", "--aggregation", "private"], "OF102: "),
        (["--out", new, "--emulate", tmp_path / "absent.toml"], "OF101: "),
        (["--out", new, "--emulate", tmp_path / "slow.toml"], "OF710: "),
        (["phantoms", new, "--preset", "nonsense"], "OF102: "),
        ([*search, "--device", "toaster=3"], "OF710: "),
        ([*search, "--budget", "soon"], "OF102: "),
        ([*search, "--resume"], "OF121: "),
        (["search", "weights", "--out", new, "--gamma", "-1"], "OF102: "),
    ]
    asked = json.dumps([[str(option) for option in options] for options, _ in refused])
    done = subprocess.run([sys.executable, "-c", REFUSE, asked], capture_output=True, text=True, check=True)
    for (options, words), (status, said, loaded) in zip(refused, json.loads(done.stdout), strict=True):
        assert status == 2, options
        assert words in said, options
        assert loaded == [], options
    assert not new.exists()
    assert [path.name for path in run.iterdir()] == ["config.json"]


def test_the_command_ends_with_the_number_and_no_traceback(tmp_path: Path) -> None:
    done = sim("--out", tmp_path / "run", "--preset", "nonsense")
    assert done.returncode == 2
    assert done.stderr.startswith("OF102: ")
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_killed_in_each_stage_it_ends_in_the_same_weights(finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    # The stages are recognised by what they leave on disk, so that each kill falls into another one.
    marks = ["sites/north/data", "sites/north/state/teachers", "taught.json", "arms/local", "arms/omnikd/replies",
             "arms/omnikd/round-0000.json", "arms/central", "metrics.csv", "model-north.onnx"]  # fmt: skip
    for place, mark in enumerate(marks):
        options = TINY if place == 0 or not (run / "config.json").is_file() else ["--resume"]
        process = subprocess.Popen([SIM, "--out", run, *options], env=ONE_THREAD, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while not (run / mark).exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = sim("--out", run, "--resume")
    assert done.returncode == 0, done.stderr
    for path in ("arms/omnikd/round-0001.safetensors", "arms/central/north.safetensors"):
        ours, theirs = read_state(run / path)[0], read_state(finished / path)[0]
        assert all(np.array_equal(ours[key], theirs[key]) for key in theirs)
    assert (run / "metrics.csv").read_text() == (finished / "metrics.csv").read_text()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_full_disk_loses_nothing_that_was_finished(finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    # The file size limit stands in for a full disk: no file above 1 MiB can be written, as a state file must be.
    limited = f"ulimit -f 1024; exec {SIM} --out {run} " + " ".join(TINY)
    done = subprocess.run(["bash", "-c", limited], capture_output=True, text=True, env=ONE_THREAD, check=False)
    assert done.returncode != 0
    assert "OF103" in done.stderr + done.stdout
    done = sim("--out", run, "--resume")
    assert done.returncode == 0, done.stderr
    assert (run / "metrics.csv").read_text() == (finished / "metrics.csv").read_text()
