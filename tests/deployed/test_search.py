"""The searches between real processes: trials at both sites at once, and kill -9 in the middle of them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from harness import Event, Federation

from omnifed.search.results import ArchitectureResult, WeightResult

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

STAGES = ["prepare", "teach", "search-architecture", "search-weights", "train", "evaluate"]
SEARCHES: dict[str, Any] = {
    "stages": STAGES,
    "arms": ["omnikd"],
    "architecture": {
        "budget": "8", "steps": 2, "fraction": 0.5, "full": 0,
        "targets": [{"name": "raspberry-pi-4", "latency_ms": 400.0}],
    },
    "weights": {"budget": "7", "steps": 2, "fraction": 0.5},
}  # fmt: skip


def check(federation: Federation) -> None:
    folder = federation.run / "search"
    architecture = ArchitectureResult.model_validate_json((folder / "architecture.json").read_bytes())
    weights = WeightResult.model_validate_json((folder / "weights.json").read_bytes())
    # A trial whose process was killed is one that its site could not do: it counts against the budget.
    assert (architecture.trials + architecture.failed, weights.trials + weights.failed) == (8, 14)
    assert architecture.failed + weights.failed <= 1
    for name, trials in (("architecture", architecture.trials), ("weights", weights.trials)):
        events = [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]
        told = Counter(event["observation"]["trial"]["id"] for event in events if event["event"] == "told")
        assert set(told.values()) == {1}
        assert len(told) == trials
    assert {step.site for step in weights.history} == {"north", "east"}


def trial(event: Event) -> bool:
    return event.get("event") == "trial"


def test_both_sites_try_at_once_and_the_federation_trains_what_was_found(tmp_path: Path) -> None:
    with Federation(tmp_path / "f", ("north", "east"), **SEARCHES) as federation:
        federation.start()
        assert federation.finish(600) == 0
        assert federation.left_behind() == []
        check(federation)
        seen = federation.log("server")
        assert "stage search-architecture begins (8)" in seen
        assert federation.command("omnifed", "report", str(federation.run)).returncode == 0
        assert "Architecture search" in (federation.run / "report.html").read_text()


@pytest.mark.parametrize("role", ["client", "worker", "task", "serverapp", "server"])
def test_killed_among_the_trials_it_finishes_and_counts_each_once(tmp_path: Path, role: str) -> None:
    with Federation(tmp_path / "f", ("north", "east"), **SEARCHES) as federation:
        federation.start()
        federation.wait_event(trial, 240)
        site = "north" if role in ("client", "worker", "task") else None
        federation.kill(role, site)
        if role == "client":
            federation.start_client("north")
        if role == "server":
            assert federation.server
            federation.server.wait(5)
            federation.start_server()
        assert federation.finish(600) == 0
        check(federation)
