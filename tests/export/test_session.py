"""What a session refuses: damaged files, files that point elsewhere, models without metadata, wrong batches."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import sys

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from omnifed.errors import OmniFedError
from omnifed.export.session import Session, load
from omnifed.export.wire import metadata, refuse_external_data

from .conftest import images

openvino = pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="openvino is an extra")


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


def test_metadata_are_read_without_an_engine(exported):
    assert metadata(exported.path.read_bytes()) == {p.key: p.value for p in onnx.load(exported.path).metadata_props}
    assert metadata(b"") == {}


def test_damaged_and_missing_files(tmp_path, exported):
    content = exported.path.read_bytes()
    for bad in (b"", b"no model at all", content[: len(content) // 2]):
        with pytest.raises(OmniFedError, match="OF602"):
            Session(bad)
    with pytest.raises(OmniFedError, match="OF602"):
        load(tmp_path / "missing.onnx")


def with_card(exported, **changes):
    model = onnx.load(exported.path)
    card = {prop.key: prop.value for prop in model.metadata_props}["omnifed"]
    del model.metadata_props[:]  # the seal too
    model.metadata_props.add(key="omnifed", value=json.dumps(json.loads(card) | changes))
    return model.SerializeToString()


@pytest.mark.parametrize(
    "changes",
    [{"channels": 3}, {"image_size": [32, 32]}, {"labels": {"0": "background", "1": "x"}}, {"format": 0}, {"extra": 1}],
)
def test_metadata_must_fit_the_graph(exported, changes):
    Session(with_card(exported))
    with pytest.raises(OmniFedError, match="OF604"):
        Session(with_card(exported, **changes))


def test_a_model_of_a_newer_version_says_which(exported):
    with pytest.raises(OmniFedError) as caught:
        Session(with_card(exported, format=7, omnifed="9.1.0", sparkle=True))
    assert caught.value.code == "OF607"
    assert "format 7, written by OmniFed 9.1.0; this version reads up to 2" in caught.value.seen


def test_metadata_of_the_first_format_are_read(exported):
    old = json.loads(next(p.value for p in onnx.load(exported.path).metadata_props if p.key == "omnifed"))
    model = onnx.load(exported.path)
    model.metadata_props.pop()  # the seal, which came with the second format
    for prop in model.metadata_props:
        if prop.key == "omnifed":
            kept = {k: v for k, v in old.items() if k not in ("slice_axis", "view", "precision", "engine")}
            prop.value = json.dumps(kept | {"format": 1})
    assert Session(model.SerializeToString()).card.precision == "fp32"


def test_metadata_that_are_no_json_are_refused(exported):
    model = onnx.load(exported.path)
    model.metadata_props.pop()  # the seal
    model.metadata_props[0].value = "{"
    assert model.metadata_props[0].key == "omnifed"
    with pytest.raises(OmniFedError, match="OF604"):
        Session(model.SerializeToString())


@openvino
def test_openvino_computes_what_onnx_runtime_computes(exported, config):
    batch = images(3, config, seed=5).numpy()
    ort, other = Session(exported.path.read_bytes(), threads=1), load(exported.path, threads=1, engine="openvino")
    assert (ort.engine, other.engine, other.card) == ("ort", "openvino", ort.card)
    got = other.logits(batch)
    assert got.dtype == np.float32
    assert np.abs(got - ort.logits(batch)).max() <= 1e-4 * max(1, exported.peak)
    assert np.array_equal(got[1:2], other.logits(batch[1:2]))


@openvino
def test_auto_takes_the_engine_of_the_card(exported):
    assert Session(with_card(exported)).engine == "ort"
    assert Session(with_card(exported, engine="openvino")).engine == "openvino"
    assert Session(with_card(exported, engine="openvino"), engine="ort").engine == "ort"


def test_auto_falls_back_and_a_named_engine_does_not(exported, monkeypatch):
    monkeypatch.setattr("omnifed.export.session.has_openvino", lambda: False)
    monkeypatch.setitem(sys.modules, "openvino", None)
    model = with_card(exported, engine="openvino")
    assert Session(model).engine == "ort"
    with pytest.raises(OmniFedError, match="OF702"):
        Session(model, engine="openvino")


def test_bfloat16_in_onnx_runtime_is_float32_and_a_warning(exported, config):
    model, plain = Session(with_card(exported, precision="bf16")), load(exported.path)
    batch = images(1, config).numpy()
    assert np.array_equal(model.logits(batch), plain.logits(batch))
    assert "float32" in model.warnings[0]
    assert plain.warnings == ()


@openvino
def test_bfloat16_where_the_processor_lacks_it_is_float32_and_a_warning(exported, config, monkeypatch):
    batch = images(1, config).numpy()
    plain = load(exported.path, engine="openvino").logits(batch)
    for module in ("omnifed.devices.engines", "omnifed.export.session"):
        monkeypatch.setattr(f"{module}.openvino_types", lambda: ["FP32"])
    model = Session(with_card(exported, precision="bf16", engine="openvino"))
    assert np.array_equal(model.logits(batch), plain)
    assert "this processor lacks" in model.warnings[0]


@pytest.mark.parametrize("engine", ["ort", pytest.param("openvino", marks=openvino)])
def test_flipped_bits_without_a_seal_end_in_a_number_or_in_another_sha256(exported, engine):
    """Whatever a flip does: no traceback of an engine, and never the same digest."""
    content = with_card(exported)
    graph = content.index(b"node_")  # from here on: nodes and their attributes, then weights
    rng = np.random.default_rng([4])
    refused = 0
    for at in (*rng.integers(0, 64, 6), *rng.integers(graph, graph + 6000, 10)):
        bad = bytearray(content)
        bad[at] ^= 1 << int(rng.integers(8))
        try:
            assert Session(bytes(bad), threads=1, engine=engine).sha256 != exported.sha256
        except OmniFedError as error:
            refused += error.code in ("OF602", "OF603", "OF604", "OF607")
    assert refused > 0


def test_a_model_without_metadata_is_refused():
    with pytest.raises(OmniFedError, match="OF604"):
        Session(tiny().SerializeToString())


@pytest.mark.parametrize("shape", [(0, 1, 64, 32), (1, 3, 64, 32), (1, 1, 32, 64), (1, 64, 32)])
def test_wrong_batches_are_refused(exported, shape):
    with pytest.raises(OmniFedError, match="OF605"):
        load(exported.path).logits(np.zeros(shape, np.float32))
