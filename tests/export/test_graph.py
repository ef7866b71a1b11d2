"""A graph that is rewritten computes the same; what is not understood stays."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from omnifed.export.card import KEY
from omnifed.export.graph import upsample_by_convolution, with_card
from omnifed.export.seal import SEAL
from omnifed.export.session import Session, read_card
from omnifed.export.wire import metadata

from .conftest import images


def resize(channels: int, size: tuple[int, int], scale: int = 2, **attributes: object) -> bytes:
    """A model of one Resize."""
    attributes = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"} | attributes
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", channels, size[0] * k, size[1] * k])
        for name, k in (("image", 1), ("logits", scale))
    ]
    scales = numpy_helper.from_array(np.array([1, 1, scale, scale], np.float32), "scales")
    node = helper.make_node("Resize", ["image", "", "scales"], ["logits"], **attributes)
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], [scales])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10).SerializeToString()


def run(model: bytes, image: np.ndarray) -> np.ndarray:
    return onnxruntime.InferenceSession(model).run(None, {"image": image})[0]


def operators(model: bytes) -> list[str]:
    return [node.op_type for node in onnx.load_from_string(model).graph.node]


def test_a_row_of_two_pixels_by_hand():
    changed = upsample_by_convolution(resize(1, (2, 2)))
    assert operators(changed) == ["Pad", "ConvTranspose"]
    image = np.array([[0, 4], [0, 4]], np.float32)[None, None]
    assert run(changed, image)[0, 0].tolist() == [[0, 1, 3, 4]] * 4


@given(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9), st.integers(0, 9))
@settings(max_examples=25, deadline=None)
def test_upsampling_is_the_same_at_any_size(channels: int, height: int, width: int, seed: int):
    model = resize(channels, (height, width))
    image = np.random.default_rng([seed]).standard_normal((2, channels, height, width), np.float32)
    assert np.abs(run(upsample_by_convolution(model), image) - run(model, image)).max() < 1e-5


@pytest.mark.parametrize(
    "model",
    [
        resize(1, (4, 4), mode="nearest"),
        resize(1, (4, 4), coordinate_transformation_mode="align_corners"),
        resize(1, (4, 4), 3),
        resize(1, (4, 4), mode="cubic"),
        resize(1, (4, 4), antialias=1),
    ],
    ids=["nearest", "corners", "x3", "cubic", "antialias"],
)
def test_other_resizing_stays(model: bytes):
    assert operators(upsample_by_convolution(model)) == ["Resize"]


def test_a_student_computes_the_same_and_keeps_its_card(exported, config):
    before = exported.path.read_bytes()
    after = upsample_by_convolution(before)
    assert "Resize" not in operators(after)
    assert operators(after).count("ConvTranspose") == operators(before).count("Resize") == 4
    batch = images(2, config, seed=8).numpy()
    assert np.abs(Session(after).logits(batch) - Session(before).logits(batch)).max() < 1e-5 * max(1, exported.peak)
    assert metadata(after) == {key: value for key, value in metadata(before).items() if key != SEAL}


def test_a_card_is_replaced_and_nothing_else(exported):
    before = exported.path.read_bytes()
    card = read_card(metadata(before)[KEY])
    after = with_card(before, card.model_copy(update={"precision": "bf16", "engine": "openvino"}))
    assert read_card(metadata(after)[KEY]).precision == "bf16"
    assert metadata(after)["notice"] == card.notice
    assert onnx.load_from_string(after).graph == onnx.load_from_string(before).graph
