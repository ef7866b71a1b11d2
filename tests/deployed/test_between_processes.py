"""One whole campaign between real processes: in the quick suite, as nothing else proves that the parts fit."""

from __future__ import annotations

from pathlib import Path

from harness import Federation
from twin import difference, twin


def test_a_campaign_between_processes_ends_with_the_same_bytes_as_in_one(tmp_path: Path) -> None:
    stages = ["prepare", "teach", "train", "evaluate", "export"]
    with Federation(tmp_path / "f", ("north", "east"), arms=["omnikd"], stages=stages, wire="int8-delta") as fed:
        fed.start()
        assert fed.finish(200) == 0
        assert fed.left_behind() == []
        fed.check_counts()
        assert difference(fed.final(), twin(fed)) == []

        seen = fed.log("server")
        assert "north: joined (omnifed" in seen
        assert "omnikd round 2 done: 2 sites, 0 misses" in seen
        assert "campaign test: finished" in seen
        assert "connected to 127.0.0.1" in fed.log("client-north")
        assert len(list(fed.state("north").glob("campaigns/test-*/models/omnikd/model.onnx"))) == 1
        assert [e["state"] for e in fed.site_events("east") if e["event"] == "task"].count("finished") == 7

        status = fed.command("omnifed-server", "status", str(fed.run))
        assert status.returncode == 0
        assert "no coordinator runs" in status.stdout
        report = fed.command("omnifed", "report", str(fed.run))
        assert report.returncode == 0, report.stderr
        page = "".join((fed.run / "report.html").read_text().split())
        rounds = [event for event in fed.events() if event["event"] == "aggregate"]
        assert len(rounds) == 2
        for event in rounds:
            assert f"<td>{event['bytes_down']}</td><td>{event['bytes_up']}</td>" in page
