"""`omnifed export`: one whole export of a real site's run, and the errors that a user meets before it begins."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from omnifed.cli.app import app
from omnifed.data.prepare import prepare
from omnifed.data.site_folder import load_site
from omnifed.devices.measurement import Measurement
from omnifed.errors import OmniFedError
from omnifed.export.session import load
from omnifed.models.registry import build_student
from omnifed.models.spec import StudentSpec
from omnifed.models.weights import to_state
from omnifed.states import write_state

SPEC = "omnisegnet:alpha=0.6,beta=0.5,stem_stride=2"


def invoke(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["export", *map(str, arguments)], catch_exceptions=True)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def isic(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A part of the isic site at 64 pixels, and a student that was not trained."""
    folder = tmp_path_factory.mktemp("cli") / "isic"
    folder.mkdir()
    lines = (real_data / "isic" / "index.csv").read_text().splitlines()[:13]
    for entry in re.findall(r"[^,\s]+\.(?:jpe?g|png)", "\n".join(lines[1:])):
        (folder / entry).parent.mkdir(exist_ok=True)
        shutil.copy(real_data / "isic" / entry, folder / entry)
    (folder / "index.csv").write_text("\n".join(lines) + "\n")
    (folder / "site.toml").write_text(
        'name = "isic"\nmodality = "dermoscopy"\nchannels = 3\nimage_size = [64, 64]\n'
        'labels = { 0 = "background", 1 = "lesion" }\nnormalisation = { kind = "rgb" }\n'
    )
    student = build_student(StudentSpec.parse(SPEC), load_site(folder).config.spec, seed=1)
    write_state(folder.parent / "student.safetensors", to_state(student), {})
    return folder


def test_a_checkpoint_becomes_a_model_a_table_and_a_plot(isic, tmp_path):
    target = tmp_path / "model"
    arguments = (isic.parent / "student.safetensors", "--student", SPEC, "--data", isic, "--engine", "ort")
    told = invoke(*arguments, "--output", target, "--precision", "int8", "--max-loss", 100)
    assert sorted(path.name for path in target.iterdir()) == ["export.svg", "model.json", "model.onnx"]
    figures = json.loads((target / "model.json").read_text())
    assert figures["chosen"] == ["int8", "ort"]
    assert "fp32, ONNX Runtime" in told
    assert f"{figures['rows'][1]['loss']:.2f}" in told
    assert "not a medical device" in told
    assert figures["sha256"] in told
    picture = (target / "export.svg").read_text()
    assert picture.startswith("<?xml")
    assert "isic" not in picture + (target / "model.json").read_text()
    session = load(target / "model.onnx")
    assert session.card.labels == {0: "background", 1: "lesion"}
    images = prepare(load_site(isic), tmp_path / "cache").test.images
    assert session.logits(np.asarray(images[:2], np.float32)).shape == (2, 2, 64, 64)
    with pytest.raises(OmniFedError, match="OF613"):
        invoke(*arguments, "--output", target)


def test_json_is_the_file_and_nothing_else(isic, tmp_path, monkeypatch):
    """Also: without matplotlib there is no plot, and the user is told what to install."""
    monkeypatch.delitem(sys.modules, "omnifed.export.plot", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    figures = dict.fromkeys(("warmups", "runs", "p50_ms", "p95_ms", "cpu_ms", "variation", "load_ms", "peak_mib"), 5)
    made = Measurement(network="made", size=(64, 64), **figures)
    monkeypatch.setattr("omnifed.export.choose.bench", lambda *_, **__: made)  # the other test measures
    arguments = (isic.parent / "student.safetensors", "--student", SPEC, "--data", isic, "--engine", "ort")
    told = invoke(*arguments, "--output", tmp_path / "m", "--json")
    assert json.loads(told) == json.loads((tmp_path / "m" / "model.json").read_text())
    assert not (tmp_path / "m" / "export.svg").exists()


def test_what_is_missing_is_named_before_anything_is_done(tmp_path):
    write_state(tmp_path / "w.safetensors", {"a": np.zeros(1, np.float32)}, {})
    with pytest.raises(OmniFedError) as caught:
        invoke(tmp_path / "w.safetensors", "--output", tmp_path / "m")
    assert caught.value.code == "OF612"
    assert caught.value.remedy == "Give --student FAMILY:PRESET and --data SITE_FOLDER."
    with pytest.raises(OmniFedError, match="OF610"):
        invoke(tmp_path / "nothing", "--output", tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_a_base_install_says_which_extra_is_missing(tmp_path, monkeypatch):
    for name in list(sys.modules):
        if name.startswith("omnifed.export.") and name.split(".")[-1] in ("publish", "onnx", "graph", "quantise"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(OmniFedError, match="OF615") as caught:
        invoke(tmp_path, "--output", tmp_path / "m")
    assert "onnx is not installed" in caught.value.seen
