"""Sites that come later, and one name on two machines."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from harness import Federation, make_site

pytestmark = pytest.mark.slow


def misses(fed: Federation) -> Counter[tuple[str, str]]:
    return Counter((e["site"], e["code"]) for e in fed.events() if e["event"] == "miss")


def test_a_site_that_comes_late_is_part_of_the_next_rounds(tmp_path: Path) -> None:
    with Federation(tmp_path / "f", ("north", "east", "late"), quorum=2.0, rounds=6, steps=6) as fed:
        fed.start_server()
        for site in ("north", "east"):
            fed.start_client(site)
        fed.wait_event(lambda e: e["event"] == "aggregate" and e["round"] == 0)
        fed.start_client("late")
        fed.wait_event(lambda e: e["event"] == "round" and e["site"] == "late", 120)
        assert fed.finish(240) == 0
        counted = fed.counted()
        assert ("fedbn", 0, "late") not in counted
        assert ("fedbn", 5, "late") in counted
        assert max(counted.values()) == 1
        away = misses(fed)
        assert set(away) == {("late", "OF501")}
        assert away["late", "OF501"] == 6 - sum(site == "late" for _, _, site in counted)
        assert any(e["event"] == "evaluate" and e["site"] == "late" and e["split"] == "test" for e in fed.events())
        assert fed.left_behind() == []


def test_a_name_that_is_taken_is_refused_until_its_holder_has_gone(tmp_path: Path) -> None:
    with Federation(tmp_path / "f", ("north", "east"), rounds=8, steps=6) as fed:
        fed.start()
        fed.wait_event(lambda e: e["event"] == "round")
        twin = make_site(tmp_path / "twin", "north")
        state = tmp_path / "twin-state"
        command = ["omnifed-client", "--site", "north", "--data", str(twin), "--state", str(state), "--insecure"]
        second = fed._start("client-second.log", [*command, "--server", f"127.0.0.1:{fed.port}"], {})
        refused = fed.wait_event(lambda e: e["event"] == "site" and e["state"] == "refused", 60)
        assert (refused["site"], refused["code"]) == ("north", "OF508")
        assert fed.finish(240) == 0
        second.terminate()
        second.wait(20)
        fed.check_counts()
        assert not misses(fed)
        assert fed.left_behind() == []
