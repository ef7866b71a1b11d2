"""The model's own check sum."""

from __future__ import annotations

import hashlib

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from omnifed.errors import OmniFedError
from omnifed.export.seal import SEAL, check_seal, sealed
from omnifed.export.session import load


def made() -> bytes:
    node = helper.make_node("Add", ["x", "w"], ["y"])
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in "xy"]
    weights = [numpy_helper.from_array(np.arange(4, dtype=np.float32), "w")]
    model = helper.make_model(helper.make_graph([node], "g", ends[:1], ends[1:], weights))
    helper.set_model_props(model, {"other": "kept"})
    return model.SerializeToString()


MODEL = made()
WHOLE = sealed(MODEL)


def test_a_seal_is_metadata_like_any_other_and_holds_the_digest_of_the_rest():
    props = {prop.key: prop.value for prop in onnx.load_from_string(WHOLE).metadata_props}
    assert props == {"other": "kept", SEAL: hashlib.sha256(MODEL).hexdigest()}
    assert WHOLE.startswith(MODEL)
    check_seal(WHOLE)
    check_seal(MODEL)  # without a seal there is nothing to check


@given(at=st.integers(0, len(WHOLE) - 1), bit=st.integers(0, 7))
@settings(max_examples=300, deadline=None)
def test_no_flipped_bit_leaves_the_model_as_it_was_and_accepted(at, bit):
    bad = bytearray(WHOLE)
    bad[at] ^= 1 << bit
    refused = ""
    try:
        check_seal(bytes(bad))
    except OmniFedError as error:
        refused = error.code
    # A flip in the seal's own key leaves a model without a seal: the model itself is whole then.
    assert refused in ("OF602", "OF616") or bytes(bad[: len(MODEL)]) == MODEL


def test_a_model_that_another_tool_rewrote_is_refused():
    longer = onnx.load_from_string(WHOLE)
    longer.producer_name = "another"
    with pytest.raises(OmniFedError, match="OF616"):
        check_seal(longer.SerializeToString())


def test_a_changed_weight_of_an_exported_model_is_refused(exported, tmp_path):
    content = bytearray(exported.path.read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "bad.onnx").write_bytes(content)
    with pytest.raises(OmniFedError, match="OF616"):
        load(tmp_path / "bad.onnx")
    load(exported.path)
