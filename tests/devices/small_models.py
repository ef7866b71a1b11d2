"""Small ONNX models made without torch."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper, numpy_helper

CARD = (
    '{"omnifed": "0.1.0", "student": {"alpha": 0.6, "beta": 0.5}, "modality": "ct", '
    '"labels": {"0": "background", "1": "organ"}, "channels": 1, "image_size": [24, 32], '
    '"normalisation": {"kind": "minmax"}}'
)


def convolution(shape: tuple = ("batch", 1, 24, 32), *, inputs: int = 1, card: str = "") -> bytes:
    """Four 3x3 filters of ones; a second input is added to the first."""
    kind = TensorProto.FLOAT
    weight = numpy_helper.from_array(np.ones((4, 1, 3, 3), np.float32), "w")
    ins = [helper.make_tensor_value_info(f"image{i or ''}", kind, shape) for i in range(inputs)]
    nodes = [helper.make_node("Add", ["image", "image1"], ["sum"])] if inputs == 2 else []
    nodes += [helper.make_node("Conv", ["sum" if inputs == 2 else "image", "w"], ["logits"], pads=[1, 1, 1, 1])]
    out = helper.make_tensor_value_info("logits", kind, (shape[0], 4, *shape[2:]))
    model = helper.make_model(
        helper.make_graph(nodes, "g", ins, [out], [weight]), opset_imports=[helper.make_opsetid("", 18)], ir_version=9
    )
    if card:
        helper.set_model_props(model, {"omnifed": card})
    return model.SerializeToString()


def copy(kind: int) -> bytes:
    """The input is the output, of any type."""
    ends = [helper.make_tensor_value_info(name, kind, (1, 1, 4, 4)) for name in ("image", "logits")]
    graph = helper.make_graph([helper.make_node("Identity", ["image"], ["logits"])], "g", ends[:1], ends[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()


def impossible() -> bytes:
    """Loads, but asks at run time for 2^44 numbers."""
    shape = numpy_helper.from_array(np.array([2**40, 16], np.int64), "s")
    nodes = [
        helper.make_node("ReduceSum", ["image"], ["one"], keepdims=0),
        helper.make_node("Expand", ["one", "s"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, (1, 1, 4, 4))],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)],
        [shape],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()
