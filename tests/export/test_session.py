"""What a session refuses: damaged files, files that point elsewhere, models without metadata, wrong batches."""

from __future__ import annotations

import contextlib
import json

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from omnifed.errors import OmniFedError
from omnifed.export.session import Session, load
from omnifed.export.wire import refuse_external_data


def tiny(weights: onnx.TensorProto | None = None) -> onnx.ModelProto:
    """image + w, without metadata."""
    w = weights or numpy_helper.from_array(np.ones((1, 2, 32, 32), np.float32), "w")
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 2, 32, 32]) for n in ("image", "logits")]
    graph = helper.make_graph([helper.make_node("Add", ["image", "w"], ["logits"])], "g", ends[:1], ends[1:], [w])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def elsewhere() -> onnx.TensorProto:
    """A tensor whose data lie in another file."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1, 2, 32, 32])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="w.bin")
    return tensor


def test_external_data_are_refused_even_where_the_runtime_would_follow_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w.bin").write_bytes(np.ones((1, 2, 32, 32), np.float32).tobytes())
    path = tmp_path / "m.onnx"
    path.write_bytes(tiny(elsewhere()).SerializeToString())
    with pytest.raises(OmniFedError, match="OF603"):
        load(path)


def test_external_data_are_found_wherever_onnx_allows_a_tensor():
    branch = helper.make_graph([], "b", [], [], [elsewhere()])
    nested = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    constant = helper.make_node("Constant", [], ["y"], value=elsewhere())
    sparse = onnx.SparseTensorProto(values=elsewhere())
    for build in (
        lambda m: m.graph.node.append(nested),
        lambda m: m.graph.node.append(constant),
        lambda m: m.graph.sparse_initializer.append(sparse),
        lambda m: m.functions.add().node.append(constant),
        lambda m: m.training_info.add().algorithm.initializer.append(elsewhere()),
    ):
        model = tiny()
        refuse_external_data(model.SerializeToString())
        build(model)
        with pytest.raises(OmniFedError, match="OF603"):
            refuse_external_data(model.SerializeToString())


@given(st.binary(max_size=60), st.integers(0, 10**6), st.booleans())
@settings(max_examples=200, deadline=None)
def test_any_bytes_end_in_a_numbered_error_or_pass(noise, at, cut):
    whole = tiny().SerializeToString()
    at %= len(whole)
    for content in (noise, whole[:at] + noise + (b"" if cut else whole[at + len(noise) :])):
        with contextlib.suppress(OmniFedError):
            refuse_external_data(content)


def test_damaged_and_missing_files(tmp_path, exported):
    content = exported.path.read_bytes()
    for bad in (b"", b"no model at all", content[: len(content) // 2]):
        with pytest.raises(OmniFedError, match="OF602"):
            Session(bad)
    with pytest.raises(OmniFedError, match="OF602"):
        load(tmp_path / "missing.onnx")


def with_card(exported, **changes):
    model = onnx.load(exported.path)
    for prop in model.metadata_props:
        if prop.key == "omnifed":
            prop.value = json.dumps(json.loads(prop.value) | changes)
    return model.SerializeToString()


@pytest.mark.parametrize(
    "changes",
    [{"channels": 3}, {"image_size": [32, 32]}, {"labels": {"0": "background", "1": "x"}}, {"format": 3}, {"extra": 1}],
)
def test_metadata_must_fit_the_graph(exported, changes):
    Session(with_card(exported))
    with pytest.raises(OmniFedError, match="OF604"):
        Session(with_card(exported, **changes))


def test_a_model_without_metadata_is_refused():
    with pytest.raises(OmniFedError, match="OF604"):
        Session(tiny().SerializeToString())


@pytest.mark.parametrize("shape", [(0, 1, 64, 32), (1, 3, 64, 32), (1, 1, 32, 64), (1, 64, 32)])
def test_wrong_batches_are_refused(exported, shape):
    with pytest.raises(OmniFedError, match="OF605"):
        load(exported.path).logits(np.zeros(shape, np.float32))
