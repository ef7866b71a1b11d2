"""Curves are written for real and read back; what is not there says what to install."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from omnifed.errors import OmniFedError
from omnifed_server.tracking import open_tracker, scalars

TIME = "2026-01-02T03:04:05+00:00"
EVENTS: list[dict[str, Any]] = [
    {"time": TIME, "event": "teach", "site": "a", "dice": 0.875},
    {
        "time": TIME,
        "event": "round",
        "arm": "omnikd",
        "round": 3,
        "site": "a",
        "dice": 0.5,
        "seconds": 2.0,
        "loss": {"ce": 0.25, "odd": None},
    },
    {"time": TIME, "event": "aggregate", "arm": "omnikd", "round": 3, "seconds": 4, "bytes_up": 8, "bytes_down": 16},
    {"time": TIME, "event": "round", "arm": "hidden", "round": 2, "site": "a", "seconds": 3},
    {"time": TIME, "event": "aggregate", "arm": "hidden", "round": 2, "dice": 0.625, "loss": {"ce": 0.125}},
    {
        "time": TIME,
        "event": "evaluate",
        "arm": "omnikd",
        "site": "a",
        "which": "adopted",
        "split": "test",
        "dice": 0.75,
    },
    {"time": TIME, "event": "miss", "site": "a", "code": "OF502", "rule": "late"},
]
FIGURES = {
    ("dice/teacher/a", 0.875, 0),
    ("dice/omnikd/a", 0.5, 3),
    ("seconds/omnikd/a", 2.0, 3),
    ("loss_ce/omnikd/a", 0.25, 3),
    ("round_seconds/omnikd", 4.0, 3),
    ("bytes_up/omnikd", 8.0, 3),
    ("bytes_down/omnikd", 16.0, 3),
    ("seconds/hidden/a", 3.0, 2),
    ("mean_dice/hidden", 0.625, 2),
    ("mean_loss_ce/hidden", 0.125, 2),
    ("evaluated_dice/omnikd/a/adopted/test", 0.75, 0),
}


def test_the_figures_of_the_events() -> None:
    assert {figure for event in EVENTS for figure in scalars(event)} == FIGURES
    assert list(scalars({})) == []
    assert list(scalars({"event": "round", "dice": float("nan"), "loss": 3})) == []


def test_tensorboard_files_hold_each_figure_and_a_second_file_forgets_the_first(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    for _ in range(2):
        tracker = open_tracker("tensorboard", tmp_path / "tracking")
        for event in EVENTS:
            tracker.add(event)
        tracker.close()
        assert tracker.problem == ""
        time.sleep(1.1)  # its files are named by the second
    found = _read(tmp_path / "tracking")
    assert {figure[:3] for figure in found} == FIGURES
    assert len(found) == 2 * len(FIGURES)
    assert {figure[3] for figure in found} == {1767323045.0}


def _read(folder: Path) -> list[tuple[str, float, int, float]]:
    """The scalars of all event files, in the order of their frames (length, crc, data, crc)."""
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    found, starts = [], 0
    for file in folder.iterdir():
        data = file.read_bytes()
        while data:
            size = int.from_bytes(data[:8], "little")
            event = Event.FromString(data[12 : 12 + size])
            data = data[16 + size :]
            starts += event.session_log.status == SessionLog.START
            found += [(value.tag, value.simple_value, event.step, event.wall_time) for value in event.summary.value]
    assert starts == len(list(folder.iterdir()))  # at step 0: TensorBoard drops what was written before
    return found


def test_tensorboard_does_not_load_torch(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    code = (
        "import sys; from pathlib import Path; from omnifed_server.tracking import open_tracker;"
        f"t = open_tracker('tensorboard', Path({str(tmp_path)!r}));"
        "t.add({'event': 'teach', 'site': 'a', 'dice': 0.5}); t.close();"
        "print(t.problem, {'torch', 'flwr'} & set(sys.modules)); import torch"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "set()"


@pytest.mark.skipif(importlib.util.find_spec("mlflow") is None, reason="mlflow-skinny is not installed")
def test_mlflow_holds_each_figure_once_after_a_resume(tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    folder = tmp_path / "run" / "tracking"
    for _ in range(2):
        tracker = open_tracker("mlflow", folder)
        for event in EVENTS:
            tracker.add(event)
        tracker.close()
        assert tracker.problem == ""
    client = MlflowClient(tracking_uri=folder.as_uri())
    (run,) = client.search_runs([client.get_experiment_by_name("omnifed").experiment_id])
    assert run.info.status == "FINISHED"
    history = [m for name in run.data.metrics for m in client.get_metric_history(run.info.run_id, name)]
    assert {(metric.key, metric.value, metric.step) for metric in history} == FIGURES
    assert len(history) == len(FIGURES)


@pytest.mark.parametrize(
    ("kind", "module", "package"),
    [("tensorboard", "tensorboardX", "tensorboardX"), ("mlflow", "mlflow", "mlflow-skinny")],
)
def test_a_missing_package_is_named(
    kind: str, module: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    for name in [name for name in sys.modules if name.startswith(f"{module}.")]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(OmniFedError, match=f"pip install {package}") as caught:
        open_tracker(kind, tmp_path)
    assert caught.value.code == "OF541"


def test_unknown_kinds_and_unwritable_folders_are_refused_and_none_is_fine(tmp_path: Path) -> None:
    with pytest.raises(OmniFedError) as caught:
        open_tracker("wandb", tmp_path)
    assert caught.value.code == "OF542"
    pytest.importorskip("tensorboardX")
    (tmp_path / "file").write_text("")
    with pytest.raises(OmniFedError) as caught:
        open_tracker("tensorboard", tmp_path / "file" / "x")
    assert caught.value.code == "OF543"
    nothing = open_tracker("", tmp_path / "none")
    nothing.add(EVENTS[0])
    nothing.close()
    assert not (tmp_path / "none").exists()


def test_a_failure_ends_tracking_and_not_the_campaign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboardX")
    tracker = open_tracker("tensorboard", tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tracker, "_write", full)
    tracker.add(EVENTS[0])
    tracker.add(EVENTS[1])
    tracker.close()
    assert "No space left" in tracker.problem
