"""What a machine does to a federation: full disks, wrong clocks, lost folders, dead proxies, old releases."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from disguise import clock, release
from harness import Federation
from twin import difference, twin

from omnifed.federation.protocol import PROTOCOL

pytestmark = [pytest.mark.slow, pytest.mark.timeout(500)]
DEAD = {"HTTP_PROXY": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9", "ALL_PROXY": "http://127.0.0.1:9"}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 300 MB, which only root can mount."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=300m", "tmpfs", str(folder)], capture_output=True
    ).returncode:
        pytest.skip("a small disk can be mounted by root only, and not in every container")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path, leave: int) -> Path:
    """Leaves so many bytes free."""
    found = os.statvfs(folder)
    ballast = folder / "ballast"
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, found.f_bavail * found.f_frsize - leave)
    return ballast


def codes(federation: Federation, site: str) -> list[str]:
    return [e["code"] for e in federation.events() if e["event"] == "miss" and e["site"] == site]


def round_of(federation: Federation, site: str, *, after: int) -> None:
    """Waits for a reply of a site that counts."""
    federation.wait_event(lambda e: e["event"] == "round" and e["site"] == site, 150, after=after)


def test_a_full_disk_at_a_site_is_a_miss_until_there_is_room(tmp_path: Path, small_disk: Path) -> None:
    federation = Federation(tmp_path / "f", rounds=12, quorum=0.5, wait_s=120)
    state = federation.state("east")
    state.parent.mkdir(parents=True)
    (small_disk / "east").mkdir(mode=0o700)
    state.symlink_to(small_disk / "east")
    with federation:
        federation.start()
        round_of(federation, "east", after=0)
        ballast = fill(small_disk, 1_000_000)
        federation.wait_event(lambda e: e["event"] == "miss" and e["site"] == "east", 150)
        ballast.unlink()
        round_of(federation, "east", after=len(federation.events()))
        assert federation.finish(300) == 0
        assert federation.left_behind() == []
        assert set(codes(federation, "east")) == {"OF103"}
        assert max(federation.counted().values()) == 1


def test_a_full_disk_at_the_coordinator_pauses_it_and_it_goes_on(tmp_path: Path, small_disk: Path) -> None:
    federation = Federation(tmp_path / "f", rounds=5)
    federation.run = small_disk / "run"
    with federation:
        federation.start()
        federation.wait_event(lambda e: e["event"] == "aggregate", 150)
        ballast = fill(small_disk, 1_000_000)
        status = federation.server.wait(200)
        assert status == 3
        assert "OF103" in federation.log("server")
        ballast.unlink()
        federation.start_server("resume", str(federation.run))
        assert federation.finish(200) == 0
        assert federation.left_behind() == []
        federation.check_counts()
        assert difference(federation.final(), twin(federation)) == []


def test_a_site_without_its_data_folder_fails_alone_and_works_when_it_is_back(tmp_path: Path) -> None:
    with Federation(tmp_path / "f", rounds=12, quorum=0.5) as federation:
        federation.start()
        round_of(federation, "east", after=0)
        data = federation.data("east")
        data.rename(tmp_path / "elsewhere")
        federation.wait_event(lambda e: e["event"] == "miss" and e["site"] == "east", 150)
        (tmp_path / "elsewhere").rename(data)
        round_of(federation, "east", after=len(federation.events()))
        assert federation.finish(300) == 0
        assert federation.left_behind() == []
        assert set(codes(federation, "east")) == {"OF201"}
        rules = {e["rule"] for e in federation.events() if e["event"] == "miss"}
        assert all(str(tmp_path) not in rule for rule in rules)
        assert max(federation.counted().values()) == 1


def test_loopback_goes_past_a_dead_proxy(tmp_path: Path) -> None:
    with Federation(tmp_path / "f", ["north"], rounds=1, env=DEAD) as federation:
        federation.start()
        assert federation.finish(120) == 0
        assert federation.left_behind() == []


@pytest.mark.parametrize("minutes", [10, -10])
def test_a_clock_that_is_ten_minutes_off_is_named_by_the_doctor(tmp_path: Path, minutes: int) -> None:
    wrong = clock(tmp_path / "clock", minutes * 60)
    with Federation(tmp_path / "f", rounds=2, quorum=0.5, wait_s=60) as federation:
        federation.start_server()
        federation.start_client("north")
        federation.start_client("east", env=wrong)
        federation.wait_event(lambda e: e["event"] == "site" and e["site"] == "north" and e["state"] == "joined", 90)
        federation.env |= wrong
        doctor = federation.command(
            *("omnifed-client", "doctor", "--site", "east", "--data", str(federation.data("east"))),
            *("--state", str(federation.state("east")), "--server", f"127.0.0.1:{federation.port}", "--insecure"),
        )
        assert doctor.returncode != 0
        assert "OF135" in doctor.stdout
        assert federation.finish(120) == 0
        assert federation.left_behind() == []
        # Flower's SuperLink refuses its signature, so it never joins; the campaign goes on without it.
        assert set(codes(federation, "east")) == {"OF501"}


def test_a_site_that_is_too_old_is_told_so_at_both_ends(tmp_path: Path) -> None:
    with Federation(tmp_path / "f", rounds=1, quorum=0.5, wait_s=60) as federation:
        federation.start_server()
        federation.start_client("east", env=release(tmp_path / "old", PROTOCOL=1, MIN_PROTOCOL=1))
        refused = federation.wait_event(lambda e: e["event"] == "site" and e["state"] == "refused", 120)
        assert (refused["site"], refused["code"]) == ("east", "OF513")
        federation.start_client("north")
        assert federation.finish(150) == 0
        assert federation.left_behind() == []
        assert codes(federation, "east")[0] == "OF513"
        log = (federation.state("east") / "logs" / "worker.log").read_text()
        assert "OF513" in log
        assert "Upgrade omnifed at this site." in log


def test_an_older_site_that_is_understood_works_on(tmp_path: Path) -> None:
    # The coordinator is a release ahead, and knows a field that no site does.
    newer = release(tmp_path / "new", PROTOCOL=PROTOCOL + 1, SINCE={"fit.base": PROTOCOL + 1})
    with Federation(tmp_path / "f") as federation:
        federation.start_server(env=newer)
        for site in federation.sites:
            federation.start_client(site)
        assert federation.finish(150) == 0
        assert federation.left_behind() == []
        assert difference(federation.final(), twin(federation)) == []
