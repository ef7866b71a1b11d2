"""`omnifed predict` as a user starts it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from typer.testing import CliRunner

from omnifed.cli.app import app
from omnifed.data.site import Normalisation
from omnifed.errors import OmniFedError
from omnifed.export.card import INPUT, KEY, OPSET, OUTPUT, ExportCard
from omnifed.models.spec import StudentSpec


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Label 1 where an 8-bit image is above 100."""
    weight = numpy_helper.from_array(np.array([[[[0]]], [[[1]]]], np.float32), "w")
    ends = [
        helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["batch", 1, 32, 32]),
        helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", 2, 32, 32]),
    ]
    graph = helper.make_graph([helper.make_node("Conv", [INPUT, "w"], [OUTPUT])], "g", ends[:1], ends[1:], [weight])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    card = ExportCard(
        omnifed="0.1.0",
        student=StudentSpec(),
        modality="other",
        labels={0: "background", 1: "disc"},
        channels=1,
        image_size=(32, 32),
        normalisation=Normalisation(kind="window", window=(0, 200)),
    )
    helper.set_model_props(made, {KEY: card.model_dump_json()})
    onnx.save(made, tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for k in range(2):
        Image.fromarray(np.full((32, 32), 90 + 20 * k, np.uint8)).save(folder / f"{k}.png")
    return folder


def run(model: Path, *arguments: object) -> tuple[int, str, str]:
    done = CliRunner(mix_stderr=False).invoke(app, ["predict", str(model), *map(str, arguments)])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.stdout, done.stderr


def test_a_folder(model: Path, images: Path, tmp_path: Path) -> None:
    code, out, _ = run(model, "--input", images, "--output", tmp_path / "out")
    assert code == 0
    assert "disc 1024 pixels" in out
    assert "2 predicted, 0 failed; research use only, not a medical device" in out
    with Image.open(tmp_path / "out" / "1.png") as mask:
        assert np.unique(np.asarray(mask)).tolist() == [1]


def test_json_is_all_of_stdout_and_one_failure_is_code_2(model: Path, images: Path, tmp_path: Path) -> None:
    (images / "text.png").write_text("no image")
    code, out, err = run(model, "--input", images, "--output", tmp_path / "out", "--overlay", "none", "--json")
    assert code == 2
    report = json.loads(out)
    assert [Path(p["source"]).name for p in report["predictions"]] == ["0.png", "1.png"]
    assert report["predictions"][1] | {"seconds": 0} == {
        "source": str(images / "1.png"),
        "kind": "image",
        "outputs": [str(tmp_path / "out" / "1.png")],
        "overlays": [],
        "slices": 1,
        "labels": {"disc": {"pixels": 1024, "ml": None}},
        "warnings": [],
        "seconds": 0,
    }
    assert [(Path(f["source"]).name, f["code"]) for f in report["failed"]] == [("text.png", "OF211")]
    assert "OF211" in err
    assert len(report["model"]) == 64


def test_existing_predictions_need_overwrite(model: Path, images: Path, tmp_path: Path) -> None:
    options = ("--input", images, "--output", tmp_path / "out")
    assert run(model, *options)[0] == 0
    with pytest.raises(OmniFedError, match="OF622"):
        run(model, *options)
    assert run(model, *options, "--overwrite")[0] == 0


def test_a_damaged_model(model: Path, images: Path, tmp_path: Path) -> None:
    whole = model.read_bytes()
    for code, content in (
        ("OF602", whole[: len(whole) // 2]),
        ("OF604", whole.replace(b'"channels":1', b'"channels":3')),
    ):
        model.write_bytes(content)
        with pytest.raises(OmniFedError, match=code):
            run(model, "--input", images, "--output", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_process_loads_only_what_an_image_needs(model: Path, images: Path, tmp_path: Path) -> None:
    code = (
        "import sys\nfrom omnifed.cli.app import app\n"
        "try:\n    app()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "heavy = {'torch', 'onnx', 'matplotlib', 'nibabel', 'pydicom', 'highdicom', 'openvino'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    command = [sys.executable, "-P", "-c", code, "predict", str(model), "--input", str(images / "0.png")]
    command += ["--output", str(tmp_path / "out"), "--engine", "ort"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


def test_help_has_examples() -> None:
    assert "Example" in CliRunner().invoke(app, ["predict", "--help"]).output
