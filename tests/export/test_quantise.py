"""int8 files: what they hold, what they lose, and that nothing else is left behind."""

from __future__ import annotations

import importlib.util

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from omnifed.data.site import Normalisation
from omnifed.errors import OmniFedError
from omnifed.export.card import ExportCard
from omnifed.export.graph import set_card
from omnifed.export.quantise import evenly, quantise
from omnifed.export.session import Session
from omnifed.export.wire import refuse_external_data
from omnifed.models.spec import StudentSpec

from .conftest import images

CARD = ExportCard(
    omnifed="0",
    student=StudentSpec(),
    modality="ct",
    labels={0: "background", 1: "liver"},
    channels=1,
    image_size=(100, 100),
    normalisation=Normalisation(kind="window"),
)

openvino = pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="openvino is an extra")


@pytest.fixture(scope="module")
def calibration(config) -> np.ndarray:
    return images(6, config, seed=20).numpy().astype(np.float16)


@pytest.fixture(scope="module")
def int8(exported, calibration) -> bytes:
    return quantise(exported.path.read_bytes(), calibration)


def test_weights_are_eight_bits_by_channel_in_one_whole_file(exported, int8):
    refuse_external_data(int8)
    graph = onnx.load_from_string(int8).graph
    weights = [t for t in graph.initializer if t.data_type == TensorProto.INT8 and len(t.dims) == 4]
    fp32 = onnx.load(exported.path).graph
    assert len(weights) == sum(node.op_type == "Conv" for node in fp32.node)
    scales = {t.name: t for t in graph.initializer}
    assert all(scales[f"{w.name.removesuffix('_quantized')}_scale"].dims == [w.dims[0]] for w in weights)
    assert len(int8) < 0.4 * exported.bytes
    # The gates stay in float32.
    assert sum(node.op_type == "Gemm" for node in graph.node) == sum(node.op_type == "Gemm" for node in fp32.node)
    assert not [t for t in graph.initializer if t.doc_string]


def test_the_card_stays_and_says_int8(exported, int8):
    before, after = Session(exported.path.read_bytes()).card, Session(int8).card
    assert after == before.model_copy(update={"precision": "int8"})
    assert {p.key for p in onnx.load_from_string(int8).metadata_props} == {"omnifed", "notice"}


@pytest.mark.parametrize("engine", ["ort", pytest.param("openvino", marks=openvino)])
def test_logits_are_close_on_other_images(exported, int8, config, engine):
    batch = images(4, config, seed=21).numpy()
    want, got = Session(exported.path.read_bytes()).logits(batch), Session(int8, engine=engine).logits(batch)
    error = np.abs(got - want).mean() / np.abs(want).mean()
    assert 0 < error < 0.1  # eight bits: not the same, and not another network
    assert (got.argmax(1) == want.argmax(1)).mean() > 0.9


def test_percentile_clips_what_minmax_keeps():
    """10 000 pixels of -1..1 and one of 40: only minmax stretches the range to it."""
    end = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 1, 100, 100]) for name in ("image", "logits")]
    weight = onnx.numpy_helper.from_array(np.ones((1, 1, 1, 1), np.float32), "w")
    graph = helper.make_graph([helper.make_node("Conv", ["image", "w"], ["logits"])], "g", end[:1], end[1:], [weight])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    set_card(proto, CARD)
    wild = np.random.default_rng([1]).uniform(-1, 1, (4, 1, 100, 100)).astype(np.float32)
    wild[0, 0, 0, 0] = 40
    scales = []
    for calibration in ("minmax", "percentile"):
        done = onnx.load_from_string(quantise(proto.SerializeToString(), wild, calibration)).graph
        scales.append(float({t.name: onnx.numpy_helper.to_array(t) for t in done.initializer}["image_scale"]))
    assert scales[0] == pytest.approx((40 - float(wild.min())) / 255, rel=1e-3)
    assert scales[1] == pytest.approx(2 / 255, rel=0.1)


def test_the_same_images_give_the_same_file_and_no_word(exported, int8, calibration, capfd):
    assert quantise(exported.path.read_bytes(), calibration) == int8
    assert capfd.readouterr() == ("", "")


def test_without_an_image_there_is_a_number(exported, calibration):
    with pytest.raises(OmniFedError, match="OF606"):
        quantise(exported.path.read_bytes(), calibration[:0])


def test_images_are_spread_evenly():
    assert evenly(5, 64).tolist() == [0, 1, 2, 3, 4]
    assert evenly(101, 3).tolist() == [0, 50, 100]
    assert len(evenly(1000, 64)) == 64
    assert evenly(0, 64).tolist() == []
