"""`omnifed-sim search` as a user runs it: both searches, a larger budget, and kill -9."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from omnifed.errors import OmniFedError
from omnifed.search.results import ArchitectureResult, WeightResult
from omnifed_sim.options import target

SIM = Path(sys.executable).parent / "omnifed-sim"
ENV = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120"}
SMALL = str(Path(__file__).with_name("small.toml"))
TINY = ["--config", SMALL, "--preset", "hospitals", "--sites", "north,east", "--image-size", "32"]
ARCHITECTURE = [
    "search",
    "architecture",
    *TINY,
    "--device",
    "raspberry-pi-4=40",
    "--budget",
    "5",
    "--steps",
    "1",
    "--full",
    "0",
]
WEIGHTS = ["search", "weights", *TINY, "--budget", "7", "--steps", "1", "--teacher-steps", "1"]


def sim(*options: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([SIM, *map(str, options)], capture_output=True, text=True, timeout=240, env=ENV, check=False)


def test_an_architecture_search_ends_with_a_page_and_goes_on_with_a_larger_budget(tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = sim(*ARCHITECTURE, "--out", run)
    assert done.returncode == 0, done.stderr
    assert "raspberry-pi-4" in done.stdout
    assert "modelled" in done.stdout
    page = (run / "report.html").read_text()
    assert "Architecture search" in page
    assert (run / "search" / "architecture.svg").is_file()
    refused = sim(*ARCHITECTURE, "--out", run)
    assert refused.returncode == 2
    assert "OF120" in refused.stderr
    again = sim("search", "architecture", "--out", run, "--resume", "--budget", "7")
    assert again.returncode == 0, again.stderr
    result = ArchitectureResult.model_validate_json((run / "search" / "architecture.json").read_bytes())
    assert (result.trials, result.devices[0].name, result.devices[0].latency_ms) == (7, "raspberry-pi-4", 40)
    other = sim("search", "architecture", "--out", run, "--resume", "--steps", "9")
    assert other.returncode == 2
    assert "OF122" in other.stderr


@pytest.mark.slow
def test_a_search_that_is_killed_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert sim(*WEIGHTS, "--out", whole).returncode == 0
    process = subprocess.Popen([SIM, *WEIGHTS, "--out", cut], env=ENV, stdout=subprocess.DEVNULL)
    journal = cut / "search" / "weights.jsonl"
    for _ in range(1200):
        if journal.is_file() and journal.read_text().count('"event":"told"') >= 4:
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (cut / "search" / "weights.json").is_file()
    done = sim("search", "weights", "--resume", "--out", cut)
    assert done.returncode == 0, done.stderr
    ours, theirs = (
        WeightResult.model_validate_json((r / "search" / "weights.json").read_bytes()) for r in (cut, whole)
    )
    assert [step.model_dump() for step in ours.history] == [step.model_dump() for step in theirs.history]
    assert ours.universal.weights == theirs.universal.weights
    events = [json.loads(line) for line in (cut / "events.jsonl").read_text().splitlines()]
    assert sum(e["event"] == "trial" and not e.get("again") for e in events) <= 14 + 1


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("raspberry-pi-4=250", {"name": "raspberry-pi-4", "profile": "raspberry-pi-4", "latency_ms": 250.0}),
        ("measured", {"name": "measured", "profile": "measured", "latency_ms": 0.0}),
        ("measured=accurate", {"name": "measured-accurate", "profile": "measured", "as_fast_as": "accurate"}),
        ("my/pi.toml=30", {"name": "pi", "profile": "my/pi.toml", "latency_ms": 30.0}),
    ],
)
def test_a_device_is_a_profile_and_what_it_allows(text: str, values: dict[str, object]) -> None:
    assert target(text) == values


@pytest.mark.parametrize("text", ["", "=3", "pi=", "pi=fast", "pi=0", "pi=-1", "pi=inf", "pi=nan"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(OmniFedError, match="raspberry-pi-4=250") as caught:
        target(text)
    assert caught.value.code == "OF768"
