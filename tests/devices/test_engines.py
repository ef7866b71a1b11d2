"""Engines load what a measurement can run, refuse the rest by number, and send nothing home."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto
from small_models import CARD, convolution, copy

from omnifed.devices.engines import Loaded, image, load
from omnifed.errors import OmniFedError

# Not importorskip: an import of openvino reports itself to a web service.
openvino = pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="openvino is an extra")
ENGINES = ["ort", pytest.param("openvino", marks=openvino)]


@pytest.mark.parametrize("engine", ENGINES)
def test_an_inference_computes_the_model_on_the_made_image(engine: str) -> None:
    loaded = load(engine, convolution(card=CARD), 1)
    assert loaded.shape == (1, 1, 24, 32)
    assert loaded.size == (24, 32)
    assert loaded.card == CARD
    padded = np.pad(image(loaded.shape, "f32")[0, 0], 1)
    for _ in range(2):
        (logits,) = loaded.infer() if engine == "ort" else loaded.infer().values()
        assert logits.shape == (1, 4, 24, 32)
        assert logits[0, 3, 5, 7] == pytest.approx(padded[5:8, 7:10].sum(), abs=1e-5)


def test_the_made_image_is_normalised_and_always_the_same() -> None:
    first, second = image((1, 3, 64, 64), "tensor(float)"), image((1, 3, 64, 64), "f16")
    assert (first.dtype, second.dtype) == (np.float32, np.float16)
    assert np.array_equal(first.astype(np.float16), second)
    assert abs(first.mean()) < 0.03
    assert abs(first.std() - 1) < 0.03


@pytest.mark.parametrize(("shape", "size"), [((1, 3, 24, 32), (24, 32)), ((1, 24, 32, 3), (24, 32))])
def test_height_and_width_of_both_layouts(shape: tuple[int, ...], size: tuple[int, int]) -> None:
    assert Loaded(lambda: None, shape, 0.0, "").size == size


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("model", "seen"),
    [
        (convolution(("batch", 1, "height", 32)), "32"),
        (convolution(inputs=2), ";"),
        (convolution((2, 1, 24, 32)), "[2, 1, 24, 32]"),
        (copy(TensorProto.INT32), "1, 4, 4"),
    ],
    ids=["dynamic-height", "two-inputs", "batch-of-two", "integers"],
)
def test_other_inputs_are_refused(engine: str, model: bytes, seen: str) -> None:
    with pytest.raises(OmniFedError) as caught:
        load(engine, model, 1)
    assert caught.value.code == "OF703"
    assert seen in caught.value.seen


@pytest.mark.parametrize("engine", ENGINES)
def test_half_floats_are_images_too(engine: str) -> None:
    loaded = load(engine, copy(TensorProto.FLOAT16), 1)
    (same,) = loaded.infer() if engine == "ort" else loaded.infer().values()
    assert np.array_equal(same, image((1, 1, 4, 4), "f16"))


@pytest.mark.parametrize("engine", ENGINES)
def test_what_is_no_model_is_refused(engine: str) -> None:
    for content in (b"", b"no model at all", convolution()[:-40]):
        with pytest.raises(OmniFedError, match="OF602"):
            load(engine, content, 1)


def test_references_to_other_files_are_refused() -> None:
    import onnx

    model = onnx.load_from_string(convolution())
    model.graph.initializer[0].data_location = TensorProto.EXTERNAL
    with pytest.raises(OmniFedError, match="OF603"):
        load("openvino", model.SerializeToString(), 1)


def test_a_missing_engine_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(OmniFedError, match=r"omnifed\[openvino\]") as caught:
        load("openvino", convolution(), 1)
    assert caught.value.code == "OF702"


@openvino
def test_openvino_reports_to_nobody(tmp_path: Path) -> None:
    # Its telemetry writes a client id into the home folder and sends from a thread: there must be neither.
    (tmp_path / "model.onnx").write_bytes(convolution())
    code = (
        "import sys, threading; from pathlib import Path; from omnifed.devices.engines import load\n"
        "load('openvino', Path(sys.argv[1]).read_bytes(), 1).infer()\n"
        "import openvino.tools.ovc as ovc\n"
        "print(type(ovc.telemetry).__module__, threading.active_count(),"
        " [name for name in sys.modules if name.startswith('openvino_telemetry.')])"
    )
    home = tmp_path / "home"
    home.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "model.onnx")],
        capture_output=True,
        text=True,
        env={"HOME": str(home), "PATH": "", "OMP_NUM_THREADS": "1"},
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split(maxsplit=2) == ["openvino.tools.ovc.telemetry_stub", "1", "[]\n"]
    assert list(home.iterdir()) == []


SIGNALLED = """
import gc, os, signal, sys
from omnifed.devices.engines import load, openvino_types
model = open(sys.argv[1], "rb").read()
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
for _ in range(2):
    first, second = load("openvino", model, 1), load("openvino", model, 1)
    first.infer(), openvino_types()
    del first  # not in the order of their creation
    del second
gc.collect()
os.kill(os.getpid(), signal.SIGTERM)
"""


@openvino
def test_a_process_that_used_openvino_still_bears_signals(tmp_path):
    """Each Core of OpenVINO 2026.4 has a stack for signals; one that is freed before another leaves it dangling."""
    (tmp_path / "model.onnx").write_bytes(convolution())
    done = subprocess.run([sys.executable, "-c", SIGNALLED, str(tmp_path / "model.onnx")], timeout=60)
    assert done.returncode == 7
