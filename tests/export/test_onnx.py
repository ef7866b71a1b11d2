"""The exported file: parity, content, and what keeps it from being published."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import omnifed
from omnifed.data.site import SiteConfig
from omnifed.errors import OmniFedError
from omnifed.export.onnx import export_student
from omnifed.export.session import load
from omnifed.models.base import Out
from omnifed.models.spec import StudentSpec

from .conftest import images, settled


def test_file_computes_what_the_student_computes(exported, student, config):
    assert exported.max_delta <= 1e-4 * max(1, exported.peak)
    assert exported.agreement > 0.999
    assert (exported.samples, exported.opset) == (10, 18)
    session = load(exported.path)
    assert session.sha256 == exported.sha256
    fresh = images(3, config, seed=9)
    with torch.no_grad():
        want = student.eval()(fresh).logits.numpy()
    for n in (1, 3):
        assert np.abs(session.logits(fresh[:n].numpy()) - want[:n]).max() < 1e-4 * max(1, exported.peak)


def test_file_is_whole_valid_and_carries_its_metadata(exported, config):
    model = onnx.load(exported.path, load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    assert exported.path.stat().st_size == exported.bytes
    assert [p.name for p in exported.path.parent.iterdir()] == ["student.onnx"]
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 18)]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    props = {p.key: p.value for p in model.metadata_props}
    assert "research use only" in props["notice"]
    card = json.loads(props["omnifed"])
    assert card["omnifed"] == omnifed.__version__
    assert card["labels"] == {"0": "background", "1": "fluid", "2": "drusen"}
    assert (card["channels"], card["image_size"], card["modality"]) == (1, [64, 32], "oct")
    assert card["normalisation"]["kind"] == "minmax"
    assert StudentSpec.model_validate(card["student"]) == StudentSpec(alpha=0.6, beta=0.5)
    assert config.name not in card.values()


def test_file_names_no_path_and_no_source_line(exported):
    content = exported.path.read_bytes()
    assert not re.search(rb"stack_trace|site-packages|omnisegnet[.]py", content)
    assert str(Path.home()).encode() not in content


def test_export_is_silent_and_leaves_the_student_as_it_was(config, tmp_path, capfd):
    model = settled(
        StudentSpec(alpha=0.6, beta=0.5, stem_stride=2, norm="group", fusion="depthwise", aspp=False), config
    )
    model.train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    report = export_student(model, config, tmp_path / "deep" / "m.onnx", images(1, config))
    assert report.agreement > 0.999
    assert model.training
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")


class Drifting(nn.Module):
    """Computes otherwise in the export than after it: what the comparison must catch."""

    def __init__(self, config: SiteConfig) -> None:
        super().__init__()
        self.spec, self.site = StudentSpec(), config.spec
        self.head = nn.Conv2d(config.channels, len(config.labels), 1)

    def forward(self, x: torch.Tensor) -> Out:
        logits = self.head(x)
        return Out(logits if torch.compiler.is_exporting() else logits + 0.01)


def test_nothing_is_published_beyond_the_tolerance(config, tmp_path):
    target = tmp_path / "m.onnx"
    target.write_bytes(b"the last good one")
    with pytest.raises(OmniFedError, match="OF601") as caught:
        export_student(Drifting(config), config, target, images(2, config))
    assert "0.01" in caught.value.seen
    assert target.read_bytes() == b"the last good one"
    assert list(tmp_path.iterdir()) == [target]
    export_student(Drifting(config), config, target, images(2, config), tolerance=0.1)
    assert load(target).card.labels == config.labels


def test_a_student_with_nan_is_never_published(config, tmp_path):
    broken = Drifting(config)
    nn.init.constant_(broken.head.weight, float("nan"))
    with pytest.raises(OmniFedError, match="OF601"):
        export_student(broken, config, tmp_path / "m.onnx", images(2, config), tolerance=1e9)


def test_what_does_not_fit_the_site_is_refused(student, config, tmp_path):
    with pytest.raises(OmniFedError, match="OF605"):
        export_student(student, config, tmp_path / "m.onnx", images(0, config))
    with pytest.raises(OmniFedError, match="OF605"):
        export_student(student, config, tmp_path / "m.onnx", torch.zeros(1, 1, 32, 32))
    other = config.model_copy(update={"labels": {0: "background", 1: "fluid"}})
    with pytest.raises(OmniFedError, match="OF604"):
        export_student(student, other, tmp_path / "m.onnx", images(1, config))
    assert not list(tmp_path.iterdir())


def test_prediction_needs_no_torch(exported):
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from pathlib import Path; import numpy as np\n"
        "from omnifed.export.session import load\n"
        "session = load(Path(sys.argv[1]), threads=1)\n"
        "print(session.logits(np.zeros((2, 1, 64, 32))).shape, session.classes)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(exported.path)], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "(2, 3, 64, 32) 3", done.stderr
