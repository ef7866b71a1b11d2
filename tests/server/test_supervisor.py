"""When the coordinator's supervisor goes on and when it gives up; the processes themselves are in tests/deployed."""

from __future__ import annotations

import fcntl
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from omnifed.errors import OmniFedError
from omnifed.events import EventLog
from omnifed.files import write_json
from omnifed.processes import free_port
from omnifed.trust.authority import found, rotate
from omnifed_server import supervisor
from omnifed_server.app_files import EVENTS, LOCK, OUTCOME, PROCESS
from omnifed_server.federation_file import FederationConfig
from omnifed_server.supervisor import Coordinator


class Crashing(Coordinator):
    """Its application ends as soon as it has begun; ``news`` are the files that it writes before, one a start."""

    news: tuple[str, ...] = ()
    outcome_after = 10**6
    silent = False

    def _start_link(self) -> None:
        self.link.command = [sys.executable, "-c", "import time; time.sleep(60)"]
        self.link.start()

    def _submit(self) -> None:
        self.starts = getattr(self, "starts", 0) + 1
        dead = subprocess.Popen([sys.executable, "-c", ""])
        dead.wait()
        EventLog(self.folder / EVENTS).add("campaign", {"state": "resumed"})
        for name in self.news[self.starts - 1 : self.starts]:
            write_json(self.folder / name, {})
        if not self.silent:
            write_json(self.folder / PROCESS, {"pid": dead.pid})
        if self.starts > self.outcome_after:
            write_json(self.folder / OUTCOME, {"state": "finished", "code": "", "message": ""})


@pytest.fixture
def crashing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Crashing:
    monkeypatch.setattr(supervisor.time, "sleep", lambda seconds: None)
    config = FederationConfig(sites=("north",), port=free_port(), insecure=True)
    return Crashing(config, tmp_path, lambda text: None)


def test_an_application_that_crashes_without_a_result_is_left_to_a_person(crashing: Crashing) -> None:
    with pytest.raises(OmniFedError, match="9 times without progress") as caught:
        crashing.run()
    assert caught.value.code == "OF555"
    assert crashing.starts == 9  # it greeted the sites each time, which is no progress


def test_results_keep_it_going(crashing: Crashing) -> None:
    crashing.news = tuple(f"arms/fedbn/round-{n:04d}.json" for n in range(20))
    crashing.outcome_after = 20
    assert crashing.run() == 0
    assert crashing.starts == 21


def test_a_result_that_is_written_again_is_none(crashing: Crashing) -> None:
    crashing.news = ("stages/teach/north.json",) * 20
    with pytest.raises(OmniFedError):
        crashing.run()
    assert crashing.starts == 9


def test_an_application_that_never_says_who_it_is_is_started_again(
    crashing: Crashing, monkeypatch: pytest.MonkeyPatch
) -> None:
    crashing.silent = True
    monkeypatch.setattr(supervisor, "SUBMIT_S", -1.0)
    with pytest.raises(OmniFedError, match="did not start, 9 times"):
        crashing.run()
    assert crashing.link.starts == 9  # with a fresh SuperLink each time


def test_an_application_that_outlived_its_supervisor_is_ended(tmp_path: Path) -> None:
    code = (
        "import time; from pathlib import Path; from omnifed.processes import alone\n"
        f"with alone(Path({str(tmp_path / LOCK)!r}), 'x'): print(flush=True); time.sleep(60)"
    )
    old = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert old.stdout
    old.stdout.readline()
    config = FederationConfig(sites=("north",), insecure=True)
    started = time.monotonic()
    Coordinator(config, tmp_path, lambda text: None)._end_application()
    assert old.wait(5) == -9
    assert time.monotonic() - started < 5
    with (tmp_path / LOCK).open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def with_identity(folder: Path, run: Path, said: list[str]) -> Crashing:
    config = FederationConfig(sites=("north",), port=free_port(), identity=str(folder))
    return Crashing(config, run, said.append)


def test_an_identity_that_cannot_be_used_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(OmniFedError, match="OF805"):
        with_identity(tmp_path / "none", tmp_path, [])
    found(tmp_path / "old", "test", "127.0.0.1:8000", now=datetime.now(UTC) - timedelta(days=181))
    with pytest.raises(OmniFedError, match="OF803"):
        with_identity(tmp_path / "old", tmp_path, [])


def test_what_ends_soon_is_said_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor.time, "sleep", lambda seconds: None)
    said: list[str] = []
    found(tmp_path / "identity", "test", "127.0.0.1:8000", now=datetime.now(UTC) - timedelta(days=80))
    crashing = with_identity(tmp_path / "identity", tmp_path / "run", said)
    crashing.outcome_after = 0
    assert crashing.run() == 0
    assert len([line for line in said if "omnifed-server rotate" in line]) == 2, said
    rotate(tmp_path / "identity")
    said.clear()
    crashing = with_identity(tmp_path / "identity", tmp_path / "run", said)
    crashing.outcome_after = 0
    assert crashing.run() == 0
    assert said == []
