"""`omnifed serve` as a process of its own, with a model whose masks are known."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from served_files import by_command_line, slices

from omnifed.data.site import Normalisation
from omnifed.export.card import INPUT, KEY, OPSET, OUTPUT, ExportCard
from omnifed.models.spec import StudentSpec

LABELS = {0: "background", 1: "liver", 2: "left kidney"}


class Server:
    """A running `omnifed serve`.

    Attributes:
        address: of the page.
        room: folder in which it makes its private folders.
    """

    def __init__(self, process: subprocess.Popen[str], room: Path) -> None:
        self.process, self.room = process, room
        line = process.stdout.readline() if process.stdout else ""
        assert line.startswith("http://"), line + (process.stderr.read() if process.stderr else "")
        self.address = line.split()[0]
        self.port = int(self.address.rsplit(":", 1)[1])

    def left(self) -> list[Path]:
        """Files that the server has on disk, but its copy of the model."""
        return [path for path in self.room.rglob("*") if path.is_file() and path.name != "model.onnx"]

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(20)


@contextmanager
def running(model: Path, room: Path, *options: str) -> Iterator[Server]:
    room.mkdir(exist_ok=True)
    process = subprocess.Popen(
        [sys.executable, "-c", "from omnifed.cli.app import app; app()", "serve", str(model), "--port", "0", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(room), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
    )
    try:
        yield Server(process, room)
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Label 1 above the window's centre (0), label 2 above 50."""
    weight = np.array([0, 1, 2], np.float32)[:, None, None, None]
    tensors = [
        numpy_helper.from_array(weight, "w"),
        numpy_helper.from_array(np.array([0, 0, -0.5], np.float32), "b"),
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", count, 32, 32])
        for name, count in ((INPUT, 1), (OUTPUT, 3))
    ]
    graph = helper.make_graph([helper.make_node("Conv", [INPUT, "w", "b"], [OUTPUT])], "g", ends[:1], ends[1:], tensors)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    card = ExportCard(
        omnifed="0.1.0",
        student=StudentSpec(),
        modality="ct",
        labels=LABELS,
        channels=1,
        image_size=(32, 32),
        normalisation=Normalisation(kind="window", window=(-100.0, 100.0)),
    )
    helper.set_model_props(made, {KEY: card.model_dump_json()})
    path = tmp_path_factory.mktemp("model") / "threshold.onnx"
    onnx.save(made, path)
    return path


@pytest.fixture(scope="session")
def server(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(model, tmp_path_factory.mktemp("room"), "--max-mb", "1") as found:
        yield found


@pytest.fixture(scope="session")
def series(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, list[Path]]:
    """A CT series, and the segmentation and the pictures that the command line makes of it."""
    folder = tmp_path_factory.mktemp("made") / "series 7"
    slices(folder)
    made = by_command_line(model, folder, tmp_path_factory.mktemp("out"))
    (seg,) = [path for path in made if path.suffix == ".dcm"]
    return folder, seg, [path for path in made if path.suffix == ".png"]


@pytest.fixture
def start(model: Path, tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """``start(*options)`` -> a server of this test alone."""
    with ExitStack() as stack:
        yield lambda *options: stack.enter_context(running(model, tmp_path / "room", *options))
