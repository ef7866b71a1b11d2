"""`omnifed bench` as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper


def omnifed(*args: str, before: str = "pass") -> subprocess.CompletedProcess[str]:
    code = f"import sys; from omnifed.cli.app import app; {before}; app(sys.argv[1:])"
    return subprocess.run(
        [sys.executable, "-c", code, *args],
        capture_output=True,
        text=True,
        timeout=60,
        env={"COLUMNS": "120", "OMP_NUM_THREADS": "1", "PATH": ""},
    )


STEADY = "import omnifed.devices.bench as b, omnifed.cli.bench as c; b.MOST_VARIATION = c.MOST_VARIATION = {}"
"""What these tests ask is not whether the machine is quiet."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Conv", ["image", "w"], ["logits"])],
        "g",
        [value("image", TensorProto.FLOAT, ("batch", 1, 24, 32))],
        [value("logits", TensorProto.FLOAT, ("batch", 2, 24, 32))],
        [numpy_helper.from_array(np.ones((2, 1, 1, 1), np.float32), "w")],
    )
    path = tmp_path_factory.mktemp("bench") / "one.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def test_json_of_two_models(model: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.onnx"
    other.write_bytes(model.read_bytes())
    done = omnifed("bench", str(model), str(other), "--threads", "2", "--json", before=STEADY.format(9))
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert [row["model"] for row in answer["measurements"]] == [str(model), str(other)]
    for row in answer["measurements"]:
        assert (row["threads"], row["size"], row["evidence"]) == (2, [24, 32], "measured")
        assert row["runs"] >= 50
    assert answer["machine"]["cores"] >= 1


def test_table_names_machine_and_figures(model: Path) -> None:
    done = omnifed("bench", str(model), before=STEADY.format(9))
    assert done.returncode == 0, done.stderr
    for text in ("cores", "ONNX Runtime, 1 thread", "one.onnx (24 x 32)", "p50 ms", "peak MiB", "measured"):
        assert text in done.stdout


def test_a_measurement_that_varies_is_shown_and_ends_with_code_2(model: Path) -> None:
    done = omnifed("bench", str(model), before=STEADY.format(-1))
    assert done.returncode == 2
    assert "OF701" in done.stderr
    assert "% !" in done.stdout


def test_an_error_keeps_what_was_measured_before(model: Path, tmp_path: Path) -> None:
    done = omnifed("bench", str(model), str(tmp_path / "none.onnx"), before=STEADY.format(9))
    assert done.returncode == 2
    assert "one.onnx" in done.stdout
    assert "OF602" in done.stderr
    assert "Traceback" not in done.stderr


def test_help_has_examples() -> None:
    assert "omnifed bench student.onnx" in omnifed("bench", "--help").stdout
