"""kill -9 of the coordinator's application before and after every file that it writes: the same weights in the end."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from harness import Federation
from reference import References

HOOKS = Path(__file__).parent / "hooks"


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_coordinator_is_killed_at_every_write(tmp_path: Path, references: References) -> None:
    notes = tmp_path / "kills"
    env = {
        "PYTHONPATH": os.pathsep.join([str(HOOKS), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "OMNIFED_TEST_KILLS": str(notes),
        "OMNIFED_TEST_RUN": str(tmp_path / "federation" / "run"),
    }
    with Federation(tmp_path / "federation", rounds=4) as federation:
        federation.start_server(env=env)
        for site in federation.sites:
            federation.start_client(site)
        assert federation.finish(1400) == 0
        points = notes.read_text().splitlines()
        print(f"{len(points)} kills")
        assert len(points) == len(set(points)) >= 50
        files = {point.partition(" ")[2] for point in points}
        assert {"prepared.json", "arms/fedbn/round-0003.json", "metrics.csv", "outcome.json"} <= files
        # The supervisor took it up again after each, but for the last: how it ended was on disk.
        assert federation.log("server").count("taken up again") == len(points) - 1
        assert federation.left_behind() == []
        federation.check_counts()
        final, undisturbed = federation.final(), references.of(federation)
        assert [name for name in sorted(final.keys() | undisturbed) if final.get(name) != undisturbed.get(name)] == []
