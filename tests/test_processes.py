"""Programs under supervision: real ones, that end, hang and fork."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest
from waiting import until

from omnifed.errors import OmniFedError
from omnifed.processes import Child, Stop, alone, flower_env, free_port, holder, listens, stoppable


def program(code: str, tmp_path: Path, **options: float) -> Child:
    return Child("x", [sys.executable, "-c", code], tmp_path / "x.log", **options)


def test_a_program_that_ends_is_started_again_after_a_pause(tmp_path: Path) -> None:
    child = program("print('here'); raise SystemExit(3)", tmp_path, longest_pause_s=0.05)
    child.start()
    until(lambda: child.poll() is not None)
    assert child.keep_alive() == 3
    assert child.keep_alive() is None  # told once
    until(lambda: (child.keep_alive(), child.starts)[1] == 2)
    assert child.quick_ends == 1
    until(lambda: child.poll() is not None)
    assert child.tail() == "here\nhere"
    child.stop()


def test_a_program_that_ignores_sigterm_ends_with_its_forks(tmp_path: Path) -> None:
    code = "import os, signal, time; signal.signal(15, signal.SIG_IGN); os.fork(); print(os.getpid(), flush=True); "
    child = program(code + "time.sleep(99)", tmp_path)
    child.start()
    until(lambda: len(child.tail().split()) == 2)
    child.stop(grace_s=0.2)
    assert child.poll() == -signal.SIGKILL
    until(lambda: not any(lives(pid) for pid in child.tail().split()))


def lives(pid: str) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.is_file() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def test_a_long_log_is_put_aside(tmp_path: Path) -> None:
    (tmp_path / "x.log").write_bytes(b"a" * 10_000_001)
    child = program("print('new')", tmp_path)
    child.start()
    until(lambda: child.poll() is not None)
    assert (tmp_path / "x.log").read_text() == "new\n"
    assert (tmp_path / "x.log.1").stat().st_size == 10_000_001


def test_a_folder_has_one_owner_and_a_killed_one_leaves_it(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    code = (
        "import time, sys; from pathlib import Path; from omnifed.processes import alone\n"
        f"with alone(Path({str(lock)!r}), 'x'): print('held', flush=True); time.sleep(99)"
    )
    child = program(code, tmp_path)
    child.start()
    until(lambda: child.tail() == "held")
    assert holder(lock) == child.pid
    with pytest.raises(OmniFedError, match=f"process {child.pid}") as caught, alone(lock, "a client"):
        pass
    assert caught.value.code == "OF552"
    os.kill(child.pid or 0, signal.SIGKILL)
    until(lambda: holder(lock) is None)
    with alone(lock, "a client"):
        assert holder(lock) == os.getpid()
    assert holder(lock) is None
    child.stop()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_become_a_stop_with_the_conventional_status(number: int, status: int) -> None:
    def interrupted() -> None:
        with stoppable():
            os.kill(os.getpid(), number)
            time.sleep(5)

    before = signal.getsignal(number)
    with pytest.raises(Stop) as caught:
        interrupted()
    assert caught.value.status == status
    assert signal.getsignal(number) is before


def test_flowers_programs_call_nobody_and_reach_each_other_directly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("NO_PROXY", "a.example")
    env = flower_env(tmp_path)
    assert env["no_proxy"] == env["NO_PROXY"] == "a.example,localhost,127.0.0.1,::1"
    assert (env["FLWR_TELEMETRY_ENABLED"], env["FLWR_DISABLE_UPDATE_CHECK"]) == ("0", "1")
    assert env["FLWR_HOME"] == str(tmp_path)
    assert env["PATH"].startswith(str(Path(sys.executable).parent))


def test_a_free_port_is_free() -> None:
    assert not listens("127.0.0.1", free_port())
