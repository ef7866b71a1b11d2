from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from omnifed.errors import OmniFedError
from omnifed.federation.replies import FailedReply, FitReply
from omnifed.federation.tasks import HelloTask
from omnifed.transport.flower_compat import Array, ArrayRecord, ConfigRecord, RecordDict
from omnifed.transport.records import HEAD, STATE, reply_of, size_of, task_of, to_record

DTYPES = st.sampled_from(["bool", "uint8", "int64", "float16", "float32", "float64"])
ARRAYS = DTYPES.flatmap(lambda d: npst.arrays(d, npst.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)))
TASK = HelloTask(id="t")


@given(st.dictionaries(st.text(max_size=12), ARRAYS, max_size=6))
def test_a_state_comes_back_bit_for_bit(state):
    task, got = task_of(to_record(TASK, state))
    assert task == TASK
    assert list(got) == list(state)
    for key, value in state.items():
        assert got[key].dtype == value.dtype
        assert got[key].shape == value.shape
        assert got[key].tobytes() == value.tobytes()


def test_a_message_survives_flowers_wire_format():
    from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
    from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

    state = {"w": np.arange(12, dtype=np.float32).reshape(3, 4), "n": np.array(7)}
    record = to_record(TASK, state)
    wire = {key: item.deflate() for key, item in get_all_nested_objects(record).items()}
    task, got = task_of(inflate_object_from_contents(record.object_id, wire))
    assert task == TASK
    assert {k: v.tobytes() for k, v in got.items()} == {k: v.tobytes() for k, v in state.items()}


def test_one_array_a_dtype_whatever_the_number_of_tensors():
    state = {f"w{i}": np.full((3, 4), i, np.float32) for i in range(300)} | {"n": np.array(1)}
    record = to_record(TASK, state)
    assert sorted(record[STATE]) == ["float32", "int64"]
    assert 300 * 48 < size_of(record) < 300 * 48 + 15_000


def test_reading_copies_nothing_and_protects_the_message():
    record = to_record(TASK, {"w": np.ones(1000, np.float32)})
    _, one = task_of(record)
    _, two = task_of(record)
    assert np.shares_memory(one["w"], two["w"])
    with pytest.raises(ValueError, match="read-only"):
        one["w"][0] = 2


def test_a_transposed_or_big_endian_array_keeps_its_values():
    state = {"t": np.arange(6, dtype=np.float32).reshape(2, 3).T, "b": np.arange(3, dtype=">f4")}
    _, got = task_of(to_record(TASK, state))
    np.testing.assert_array_equal(got["t"], state["t"])
    np.testing.assert_array_equal(got["b"], state["b"])


def test_objects_and_strings_do_not_travel():
    for bad in (np.array([{}], object), np.array(["x"]), np.array([1j])):
        with pytest.raises(OmniFedError, match="OF503"):
            to_record(TASK, {"w": bad})


def test_figures_that_are_not_finite_do_not_travel():
    reply = FitReply(id="t", site="a", n=1, steps=1, loss={"x": float("nan")}, dice=0.5, adopted=True)
    with pytest.raises(OmniFedError, match="OF505"):
        to_record(reply, {})


def test_a_failed_reply_comes_back():
    reply = FailedReply(id="t", site="a", code="OF401", rule="A rule.")
    assert reply_of(to_record(reply, {})) == (reply, {})


GOOD = {"w": np.arange(6, dtype=np.float32)}


def altered(**changes) -> RecordDict:
    record = to_record(TASK, GOOD)
    head = dict(record[HEAD]) | {k: v for k, v in changes.items() if k in ("body", "layout")}
    array = record[STATE]["float32"]
    arrays = {
        changes.get("name", "float32"): Array(
            dtype="float32",
            shape=(6,),
            stype=changes.get("stype", array.stype),
            data=changes.get("data", lambda d: d)(array.data),
        )
    }
    return RecordDict({HEAD: ConfigRecord(head), STATE: ArrayRecord(arrays)})


@pytest.mark.parametrize(
    "record",
    [
        RecordDict(),
        RecordDict({HEAD: ConfigRecord({"body": 1})}),
        altered(body="{}"),
        altered(body='{"kind": "run-this", "id": "t"}'),
        altered(body='{"kind": "hello", "id": "t", "command": "rm"}'),
        altered(body='{"kind": "hello", "id": "../../etc/passwd"}'),
        altered(layout='[["w", "float32", [7]]]'),
        altered(layout='[["w", "float32", [1000000000000, 1000000000000]]]'),
        altered(layout='[["w", "float32", [5]]]'),
        altered(layout='[["w", "float32", [-6]]]'),
        altered(layout='[["w", "float32", [-2, -3]]]'),
        altered(layout='[["w", "float32", [3]], ["w", "float32", [3]]]'),
        altered(layout='[["w", "object", [6]]]'),
        altered(layout='[["w", "int32", [6]]]'),
        altered(layout='[["w", "float32", [1, 1, 1, 1, 1, 1, 1, 1, 6]]]'),
        altered(layout="[]"),
        altered(layout="not json"),
        altered(name="float64"),
        altered(name="object"),
        altered(stype="pickle"),
        altered(data=lambda d: d[:-1]),
        altered(data=lambda d: d[:-4]),
        altered(data=lambda d: d + b"1234"),
        altered(data=lambda d: d[:20]),
        altered(data=lambda d: b""),
        altered(data=lambda d: d.replace(b"<f4", b"|O8")),
        altered(data=lambda d: d.replace(b"(6,)", b"(9,)")),
    ],
    ids=range(27),
)
def test_a_malformed_message_is_refused(record):
    with pytest.raises(OmniFedError, match="OF503"):
        task_of(record)


@given(st.binary(max_size=300), st.text(max_size=60), st.text(max_size=60))
def test_no_bytes_end_the_decoder_in_another_way(data, body, layout):
    with pytest.raises(OmniFedError, match="OF503"):
        task_of(altered(data=lambda _: data, body=body, layout=layout))


@given(st.integers(0, 127), st.integers(0, 255))
def test_one_wrong_byte_of_an_arrays_head_is_refused(position, value):
    def change(data: bytes) -> bytes:
        assume(data[position] != value)
        return data[:position] + bytes([value]) + data[position + 1 :]

    with pytest.raises(OmniFedError, match="OF503"):
        task_of(altered(data=change))
