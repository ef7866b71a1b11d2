"""The worker as a process of its own: what it forks, what outlives whom, what is answered twice."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from waiting import LONG_S, until

from omnifed.errors import OmniFedError
from omnifed.federation.tasks import FitTask, HelloTask
from omnifed.models.spec import StudentSpec
from omnifed.training.spec import TrainSpec
from omnifed_client.app import WorkerExecutor
from omnifed_client.config import ClientConfig
from omnifed_client.status import Status, turn

STUDENT = StudentSpec.parse("omnisegnet:alpha=0.6,beta=0.5,stem_stride=2")


def fit(name: str, steps: int = 1) -> FitTask:
    train = TrainSpec(steps=steps, total_steps=steps, batch_size=2, warmup=0, precision="fp32")
    return FitTask(id=name, campaign="c", round=0, student=STUDENT, train=train)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> ClientConfig:
    folder = tmp_path_factory.mktemp("worker")
    data = folder / "data"
    data.mkdir()
    rows = ["image,mask,patient"]
    for k in range(8):
        Image.fromarray(np.random.default_rng(k).integers(0, 255, (32, 32), dtype=np.uint8)).save(data / f"i{k}.png")
        Image.fromarray(np.eye(32, dtype=np.uint8)).save(data / f"m{k}.png")
        rows.append(f"i{k}.png,m{k}.png,p{k}")
    (data / "index.csv").write_text("\n".join(rows))
    (data / "site.toml").write_text(
        'name = "here"\nmodality = "other"\nimage_size = [32, 32]\nlabels = {0 = "background", 1 = "line"}\n'
        'normalisation = {kind = "percentile"}\n'
    )
    return ClientConfig(site="here", data=data, state=folder / "state", insecure=True)


@pytest.fixture(scope="module")
def worker(config: ClientConfig, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerExecutor]:
    folder = tmp_path_factory.mktemp("w")
    file, path = folder / "config.json", folder / "s"
    file.write_text(config.model_dump_json())
    config.state.mkdir()
    process = subprocess.Popen([sys.executable, "-m", "omnifed_client.worker", str(file), str(path)])
    until(path.exists)
    yield WorkerExecutor(path)
    process.terminate()
    process.wait(10)


def events(config: ClientConfig, task_id: str) -> list[str]:
    lines = (config.state / "events.jsonl").read_text().splitlines()
    return [e["state"] for e in map(json.loads, lines) if e["id"] == task_id]


def test_hello_and_a_task_that_is_asked_twice(worker: WorkerExecutor, config: ClientConfig) -> None:
    hello, _ = worker.execute(HelloTask(id="h"), {})
    assert (hello.kind, hello.site, hello.train + hello.val + hello.test) == ("hello", "here", 8)  # type: ignore[union-attr]
    first, upload = worker.execute(fit("twice"), {})
    again, same = worker.execute(fit("twice"), {})
    assert first == again
    assert upload.keys() == same.keys()
    assert all(np.array_equal(upload[key], same[key]) for key in upload)
    assert events(config, "twice") == ["started", "finished", "again"]
    assert json.loads((config.state / "status.json").read_text())["task"] == ""


def running(config: ClientConfig) -> tuple[int, str]:
    lock = config.state / "work.lock"
    pid, _, task = (lock.read_text() if lock.is_file() else "").partition(" ")
    return int(pid or 0), task


def ask(worker: WorkerExecutor, task: FitTask) -> tuple[threading.Thread, list]:
    found: list = []
    thread = threading.Thread(target=lambda: found.append(worker.execute(task, {})[0]), daemon=True)
    thread.start()
    return thread, found


def test_a_task_that_is_killed_is_a_reply_with_a_number(worker: WorkerExecutor, config: ClientConfig) -> None:
    thread, found = ask(worker, fit("killed", steps=5000))
    until(lambda: running(config)[1] == "killed")
    os.kill(running(config)[0], signal.SIGKILL)
    thread.join(LONG_S)
    assert (found[0].kind, found[0].code, found[0].site) == ("failed", "OF517", "here")
    assert worker.execute(HelloTask(id="h2"), {})[0].kind == "hello"


def test_work_outlives_who_asked_and_its_twin_gets_the_answer(worker: WorkerExecutor, config: ClientConfig) -> None:
    task = fit("left", steps=60)
    link = socket.socket(socket.AF_UNIX)
    link.connect(str(worker.path))
    from multiprocessing.connection import Connection

    from safetensors.numpy import save

    with Connection(link.detach()) as connection:
        connection.send_bytes(task.model_dump_json().encode())
        connection.send_bytes(save({}))
        until(lambda: running(config)[1] == "left")
    reply, _ = worker.execute(task, {})
    assert reply.kind == "fit"
    assert events(config, "left") == ["started", "finished", "again"]


def test_another_task_ends_the_running_one(worker: WorkerExecutor, config: ClientConfig) -> None:
    thread, found = ask(worker, fit("old", steps=5000))
    until(lambda: running(config)[1] == "old")
    assert worker.execute(fit("new"), {})[0].kind == "fit"
    thread.join(LONG_S)
    assert found[0].code == "OF517"
    assert events(config, "old") == ["started", "cancelled"]


def test_no_worker_is_a_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("omnifed_client.app.RESTART_S", 0.1)
    with pytest.raises(OmniFedError) as caught:
        WorkerExecutor(tmp_path / "none").execute(HelloTask(id="h"), {})
    assert caught.value.code == "OF521"


def test_one_turn_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with turn(path, "a", print):
        assert path.read_text() == f"{os.getpid()} a"
    assert path.read_text() == ""


def test_who_ends_slowly_is_told_once(tmp_path: Path) -> None:
    path, said = tmp_path / "lock", []
    with subprocess.Popen(["sleep", "60"]) as other, path.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        held.write(f"{other.pid} old")
        held.flush()
        release = threading.Timer(0.7, lambda: fcntl.flock(held, fcntl.LOCK_UN))  # three looks later
        release.start()
        with turn(path, "new", said.append):
            assert said == ["old"]
        assert other.wait() == -signal.SIGTERM


def test_progress_is_written_twice_a_second_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    status = Status(tmp_path / "status.json")
    status.begin("fit", "t")
    status.progress(1, 9, "fit")
    assert json.loads(status.path.read_text())["done"] == 0
    now[0] += 0.5
    status.progress(2, 9, "fit")
    assert json.loads(status.path.read_text())["done"] == 2
    status.clear()
    assert json.loads(status.path.read_text())["task"] == ""
