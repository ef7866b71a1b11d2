"""Sites that hang, lie and stammer: the campaign goes on, says why, and ends as if they had not been there."""

from __future__ import annotations

import os
import re
import signal
from collections import defaultdict
from pathlib import Path

import pytest
from harness import Event, Federation
from hostile import CODES, Hostile
from twin import difference, twin

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
GOOD = ("north", "east")


def misses(federation: Federation, site: str) -> dict[int, str]:
    """Last code of a site by round."""
    return {e["round"]: e["code"] for e in federation.events() if e["event"] == "miss" and e["site"] == site}


def of_good_sites(files: dict[str, bytes]) -> dict[str, bytes]:
    return {name: content for name, content in files.items() if name.startswith(("arms/", *GOOD))}


def test_each_misdeed_has_its_number_and_changes_nothing(tmp_path: Path) -> None:
    deeds = [deed for deed in CODES if deed not in ("good", "old", "late")]
    deeds = [*deeds[:2], "old", *deeds[2:], "late", "nan"]
    late_s = 60.0
    federation = Federation(
        tmp_path / "f", (*GOOD, "mallory"), rounds=len(deeds), quorum=2.0, deadline_s=late_s - 15, wait_s=300
    )
    with federation:
        federation.start_server()
        for site in GOOD:
            federation.start_client(site)
        env = federation.env | {"OMNIFED_TEST_LATE_S": str(late_s)}
        server = f"127.0.0.1:{federation.port}"
        with Hostile(tmp_path / "mallory", server, "mallory", deeds, env) as mallory:
            federation.wait_event(lambda e: e["event"] == "round" and e["site"] == "north", 150)
            # The first of a name is it; who comes second, from another state folder, is not.
            with Hostile(tmp_path / "false-north", server, "north", [], env):
                federation.wait_event(lambda e: e["event"] == "site" and e["state"] == "refused", 60)
            assert federation.finish(450) == 0
            wanted = re.findall(r"pushed twice: (\d+) objects wanted, then (\d+)", _pushed(mallory))
            assert len(wanted) >= len(deeds) - 2
            assert {second for _, second in wanted} == {"0"}, "a second answer to a task must not be taken"
        assert federation.left_behind() == []
        found = misses(federation, "mallory")
        assert {deeds[k]: found.get(k) for k in range(len(deeds) - 1)} == {deed: CODES[deed] for deed in deeds[:-1]}
        # Its late answer comes while the next round is on: that one is refused or not asked for, but never counted.
        assert found[len(deeds) - 1] in ("OF502", "OF505")
        assert not any(e["event"] == "round" and e["site"] == "mallory" for e in federation.events())
        assert _refused(federation.events(), "north") == {"OF508"}
        assert all(site == set(GOOD) for site in _counted(federation).values())
        assert difference(of_good_sites(federation.final()), of_good_sites(twin(federation, GOOD))) == []


def _pushed(hostile: Hostile) -> str:
    return (hostile.folder / "node.log").read_text()


def _refused(events: list[Event], site: str) -> set[str]:
    return {e["code"] for e in events if e["event"] == "site" and e["site"] == site and e["state"] == "refused"}


def _counted(federation: Federation) -> dict[int, set[str]]:
    count: defaultdict[int, set[str]] = defaultdict(set)
    for (_, round_, site), times in federation.counted().items():
        assert times == 1
        count[round_].add(site)
    return count


def test_a_site_that_hangs_costs_one_deadline_and_comes_back(tmp_path: Path) -> None:
    sites = (*GOOD, "south")
    with Federation(tmp_path / "f", sites, rounds=6, quorum=2.0, deadline_s=40, wait_s=120) as federation:
        federation.start()
        federation.wait_event(lambda e: e["event"] == "round" and e["site"] == "south", 150)
        stopped = federation.kill("worker", "south", signal.SIGSTOP)
        federation.wait_event(lambda e: e["event"] == "aggregate" and e["round"] == 3, 200)
        os.kill(stopped, signal.SIGCONT)
        assert federation.finish(240) == 0
        assert federation.left_behind() == []
        late = misses(federation, "south")
        assert late, "it was stopped in the middle of a round, or before the next"
        assert set(late.values()) == {"OF502"}
        seconds = {e["round"]: e["seconds"] for e in federation.events() if e["event"] == "aggregate"}
        assert sum(value >= 40 for value in seconds.values()) == 1, seconds
        counted = _counted(federation)
        assert counted[0] == counted[5] == set(sites)
        assert all(set(GOOD) <= here for here in counted.values())
