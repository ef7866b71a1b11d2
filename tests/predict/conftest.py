"""A model whose masks are known: label 1 where the normalised image is above 0, label 2 where it is above 0.5."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from omnifed.data.site import Normalisation
from omnifed.export.card import INPUT, KEY, OPSET, OUTPUT, ExportCard
from omnifed.models.spec import StudentSpec

LABELS = {0: "background", 1: "liver", 2: "tumour"}
WINDOW = Normalisation(kind="window", window=(-100.0, 100.0))
"""x -> x / 100: label 1 above 0, label 2 above 50."""
Make = Callable[..., Path]


def threshold_model(path: Path, *, size: tuple[int, int] = (32, 32), channels: int = 1, **card: object) -> Path:
    """Writes the model: a 1x1 convolution with logits 0, s and 2 s - 0.5, s the mean of the channels."""
    weight = np.array([0, 1, 2], np.float32)[:, None, None, None].repeat(channels, 1) / channels
    tensors = [
        numpy_helper.from_array(weight, "w"),
        numpy_helper.from_array(np.array([0, 0, -0.5], np.float32), "b"),
    ]
    ends = [
        helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["batch", channels, *size]),
        helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", len(LABELS), *size]),
    ]
    node = helper.make_node("Conv", [INPUT, "w", "b"], [OUTPUT])
    graph = helper.make_graph([node], "threshold", ends[:1], ends[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    values = {
        "omnifed": "0.1.0",
        "student": StudentSpec(),
        "modality": "ct",
        "labels": LABELS,
        "channels": channels,
        "image_size": size,
        "normalisation": WINDOW,
        **card,
    }
    helper.set_model_props(model, {KEY: ExportCard.model_validate(values).model_dump_json()})
    onnx.save(model, path)
    return path


@pytest.fixture
def make_model(tmp_path: Path) -> Make:
    """``make_model(size=, channels=, **card)`` -> path of the model."""
    folder = tmp_path / "models"
    folder.mkdir()

    def make(**options: object) -> Path:
        return threshold_model(folder / f"model{len(list(folder.iterdir()))}.onnx", **options)  # type: ignore[arg-type]

    return make
