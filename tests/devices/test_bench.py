"""Measurements in real processes of small models, and their arithmetic by hand."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_models import CARD, convolution, impossible

from omnifed.devices import bench as bench_module
from omnifed.devices.bench import bench
from omnifed.devices.bench_child import FEWEST_RUNS, Plan, measure, queued_s, variation, waiting
from omnifed.errors import OmniFedError

SHORT = {"seconds": (0.05, 0.5), "accept_variation": True}


def children() -> list[int]:
    return [int(pid) for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()]


def test_a_measurement_says_what_was_measured(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(convolution(card=CARD))
    ballast = np.ones(40_000_000)  # 305 MiB: a child's getrusage would begin with them
    shares: list[float] = []
    got = bench(path, warmups=3, runs=40, progress=shares.append, **SHORT)
    assert len(ballast)
    assert got.network.startswith("omnisegnet/c16-")
    assert (got.engine, got.threads, got.size, got.evidence) == ("ort", 1, (24, 32), "measured")
    assert got.warmups >= 3
    assert got.runs >= 40
    assert got.p50_ms <= got.p95_ms
    assert got.cpu_ms > 0
    assert 10 < got.peak_mib < 250
    assert 0 in shares
    assert all(0 <= share <= 1 for share in shares)


def test_bytes_are_measured_as_a_file_is_and_named_by_their_digest() -> None:
    model = convolution()
    assert bench(model, **SHORT).network == hashlib.sha256(model).hexdigest()
    assert bench(model, network="this one", **SHORT).network == "this one"


def test_a_measurement_that_varies_is_repeated_once_and_then_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_module, "MOST_VARIATION", -1.0)  # no real measurement is so steady
    shares: list[float] = []
    with pytest.raises(OmniFedError) as caught:
        bench(convolution(), seconds=(0.05, 0.5), progress=shares.append)
    assert caught.value.code == "OF701"
    assert shares.count(0.0) == 2


def test_a_process_that_is_killed_is_told() -> None:
    def kill(share: float) -> None:
        (child,) = children()
        os.kill(child, signal.SIGKILL)

    with pytest.raises(OmniFedError, match="memory ran out") as caught:
        bench(convolution(), seconds=(30.0, 30.0), progress=kill)
    assert caught.value.code == "OF704"


def test_a_process_that_takes_too_long_is_killed() -> None:
    with pytest.raises(OmniFedError, match=r"0\.02 s") as caught:
        bench(convolution(), limit_s=0.02)
    assert caught.value.code == "OF705"
    assert children() == []


def test_an_inference_that_fails_is_told() -> None:
    with pytest.raises(OmniFedError) as caught:
        bench(impossible(), **SHORT)
    assert caught.value.code == "OF704"


def test_errors_of_the_process_come_back(tmp_path: Path) -> None:
    with pytest.raises(OmniFedError) as caught:
        bench(convolution(("batch", 1, "height", 32)), **SHORT)
    assert caught.value.code == "OF703"
    assert "height" in caught.value.seen
    with pytest.raises(OmniFedError, match="OF602"):
        bench(tmp_path / "none.onnx")


def test_a_caller_that_goes_away_takes_the_process_with_it() -> None:
    def leave(share: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench(convolution(), seconds=(30.0, 30.0), progress=leave)
    assert children() == []


def test_a_caller_that_is_killed_takes_the_process_with_it(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(convolution())
    code = (
        "import sys; from pathlib import Path; from omnifed.devices.bench import bench\n"
        "tell = lambda share: print(Path('/proc/self/task', Path('/proc/self').readlink(), 'children').read_text(),"
        " flush=True)\n"
        "bench(Path(sys.argv[1]), seconds=(30.0, 30.0), progress=tell)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "model.onnx")], stdout=subprocess.PIPE, text=True
    ) as caller:
        assert caller.stdout is not None
        child = int(caller.stdout.readline())
        assert Path(f"/proc/{child}").exists()
        caller.kill()
    for _ in range(100):
        if not Path(f"/proc/{child}").exists() or "State:\tZ" in Path(f"/proc/{child}/status").read_text():
            return
        time.sleep(0.1)
    pytest.fail("the measuring process goes on")


def test_runs_and_energy_are_counted(tmp_path: Path) -> None:
    domain = tmp_path / "class/powercap/intel-rapl:0"
    domain.mkdir(parents=True)
    (domain / "name").write_text("package-0\n")
    counter = domain / "energy_uj"
    counter.write_text("0")
    calls = []

    def infer() -> None:
        calls.append(1)
        counter.write_text(str(3_000 * len(calls)))

    got = measure(infer, Plan(warmups=4, runs=7, least_s=0.0, most_s=5.0), lambda share: None, tmp_path)
    assert got["runs"] == 7
    assert got["warmups"] >= 4
    assert got["warmups"] + 7 == len(calls)
    assert got["energy_mj"] == 3.0


def test_the_longest_time_comes_before_the_runs_but_not_before_five(tmp_path: Path) -> None:
    plan = Plan(warmups=0, runs=10_000, least_s=0.0, most_s=0.0)
    assert measure(lambda: None, plan, lambda share: None, tmp_path)["runs"] == FEWEST_RUNS


def test_variation_by_hand() -> None:
    assert variation(np.full(100, 3.0)) == 0
    # The clock falls in the middle: quartiles of the blocks 10 and 15, median 12.5.
    assert variation(np.repeat([10.0, 15.0], 50)) == pytest.approx(5 / 1.349 / 12.5)
    # One run in ten is interrupted: no block's median sees it.
    assert variation(np.tile([50.0] + [5.0] * 9, 50)) == 0
    # Jitter of the single runs cancels within blocks of 20.
    assert variation(np.tile([1.0, 2.0], 500)) == 0
    assert variation(np.array([1.0, 1.0, 2.0, 3.0, 3.0])) == pytest.approx(2 / 1.349 / 2)


def test_waiting_by_hand(tmp_path: Path) -> None:
    assert waiting(2.0, 2.0, 0.0) == 0
    assert waiting(2.0, 1.0, 0.0) == 0.5  # one thread that had half a core
    assert waiting(2.0, 3.0, 0.5) == 0.25  # two threads, one of them in the queue for half a second
    assert waiting(1.0, 2.001, 0.0) == 0
    assert waiting(1.0, 0.5, 3.0) == 1
    for thread, text in (("7", "100 1500000000 3"), ("8", "0 250000000 1")):
        (tmp_path / "task" / thread).mkdir(parents=True)
        (tmp_path / "task" / thread / "schedstat").write_text(text + "\n")
    assert queued_s(tmp_path) == 1.75
    assert queued_s(tmp_path / "none") == 0


def test_a_run_that_does_not_compute_is_seen(tmp_path: Path) -> None:
    # All runs take the same time, so that nothing varies; the processor has had almost nothing of it.
    plan = Plan(warmups=0, runs=20, least_s=0.0, most_s=5.0)
    got = measure(lambda: time.sleep(0.01), plan, lambda share: None, tmp_path)
    assert got["variation"] > 0.5


@given(st.lists(st.floats(0.1, 100), min_size=5, max_size=200), st.floats(0.01, 100))
def test_variation_has_no_unit_and_no_direction(wall: list[float], scale: float) -> None:
    one = variation(np.array(wall))
    assert one >= 0
    assert variation(np.array(wall) * scale) == pytest.approx(one, abs=1e-9)
    if len(wall) <= 50:
        assert variation(np.array(wall[::-1])) == pytest.approx(one, abs=1e-9)


def test_the_measured_process_is_small() -> None:
    code = (
        "import sys, omnifed.devices.bench_child\n"
        "print({'torch', 'pydantic', 'openvino', 'onnxruntime', 'scipy', 'rich'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "set()", done.stderr
