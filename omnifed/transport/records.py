"""Tasks and replies with their arrays, to Flower records and back.

A message costs per array, not per byte (1.5 M parameters: 4..7 s a round as one array, 38..45 s as 300). So a state
travels as one flat array a dtype, and the names and shapes travel in the head. Reading copies nothing: the arrays are
read-only views of the message's bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from pydantic import Field, TypeAdapter, ValidationError

from omnifed.errors import OmniFedError
from omnifed.federation.protocol import PROTOCOL, speak
from omnifed.federation.replies import REPLY, Reply, ReplyBase
from omnifed.federation.tasks import TASK, Task, TaskBase
from omnifed.states import State
from omnifed.transport.flower_compat import NUMPY, Array, ArrayRecord, ConfigRecord, RecordDict

HEAD, STATE = "omnifed", "state"
DType = Literal[
    "bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float16", "float32", "float64"
]
Layout = list[tuple[str, DType, tuple[Annotated[int, Field(ge=0)], ...]]]
_LAYOUT: TypeAdapter[Layout] = TypeAdapter(Layout)
T = TypeVar("T")


@dataclass(frozen=True)
class Packed:
    """A state ready to travel; immutable, so that many messages may share it.

    Attributes:
        arrays: one flat array a dtype.
        layout: JSON of (name, dtype, shape) in the state's own order.
    """

    arrays: ArrayRecord
    layout: str

    @cached_property
    def digest(self) -> str:
        """:func:`array_hash` of the arrays, worked out once for all messages that share them."""
        return array_hash(self.arrays)


def array_hash(arrays: ArrayRecord) -> str:
    """sha256 (hex) over the arrays in the order of their names: name, dtype, shape, coding and bytes, each with its
    length. Copies none of them.
    """
    found = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        shape = ",".join(str(int(size)) for size in array.shape)
        for part in (name.encode(), array.dtype.encode(), shape.encode(), array.stype.encode(), memoryview(array.data)):
            found.update(len(part).to_bytes(8, "big"))
            found.update(part)
    return found.hexdigest()


def pack(state: State) -> Packed:
    """Joins the arrays of a state: one flat array a dtype, each copied once.

    Raises:
        OmniFedError: OF503 for a dtype that may not travel (objects, strings).
    """
    layout = [(key, value.dtype.name, value.shape) for key, value in state.items()]
    try:
        _LAYOUT.validate_python(layout)
    except ValidationError as error:
        raise _malformed(f"{error.error_count()} entries of another dtype") from None
    by_dtype: dict[str, list[np.ndarray]] = {}
    for value in state.values():
        by_dtype.setdefault(value.dtype.name, []).append(value)
    return Packed(ArrayRecord({name: _flat(name, values) for name, values in by_dtype.items()}), json.dumps(layout))


def to_record(body: TaskBase | ReplyBase, state: State | Packed, *, protocol: int = PROTOCOL) -> RecordDict:
    """A task or a reply and its state as one record, for an end that understands ``protocol``.

    Raises:
        OmniFedError: OF503 for a dtype that may not travel, OF505 if a figure of ``body`` is not finite,
            OF513 if the other end is too old for ``body``.
    """
    packed = state if isinstance(state, Packed) else pack(state)
    try:
        text = json.dumps(speak(body, protocol), allow_nan=False)
    except ValueError:
        raise OmniFedError(
            "OF505",
            "Figures and weights that leave a site must be finite numbers.",
            seen=f"{type(body).__name__} with NaN or infinity",
            remedy="Look at the site's loss; lower the learning rate or check its images.",
        ) from None
    return RecordDict({HEAD: ConfigRecord({"body": text, "layout": packed.layout}), STATE: packed.arrays})


def task_of(record: RecordDict) -> tuple[Task, State]:
    """Reads a task and its state.

    Raises:
        OmniFedError: OF503 if the record is not one of ours or its parts contradict each other.
    """
    return body_of(record, TASK), state_of(record)


def reply_of(record: RecordDict) -> tuple[Reply, State]:
    """Reads a reply and its state.

    Raises:
        OmniFedError: OF503 if the record is not one of ours or its parts contradict each other.
    """
    return body_of(record, REPLY), state_of(record)


def body_of(record: RecordDict, schema: TypeAdapter[T]) -> T:
    """Reads the task or reply alone.

    Raises:
        OmniFedError: OF503.
    """
    try:
        return schema.validate_json(_head(record, "body"))
    except ValidationError as error:
        paths = ", ".join(sorted({".".join(map(str, e["loc"])) for e in error.errors(include_input=False)}))
        raise _malformed(f"fields against the schema: {paths:.200}") from None


def state_of(record: RecordDict) -> State:
    """Reads the arrays: read-only views of the message's bytes.

    Raises:
        OmniFedError: OF503.
    """
    try:
        layout = _LAYOUT.validate_json(_head(record, "layout"))
    except ValidationError as error:
        raise _malformed(f"layout: {error.error_count()} entries") from None
    arrays = record.get(STATE)
    if not isinstance(arrays, ArrayRecord):
        raise _malformed("no arrays")
    counts: dict[str, int] = {}
    for _, dtype, shape in layout:
        counts[dtype] = counts.get(dtype, 0) + math.prod(shape)
    if set(arrays) != set(counts):
        raise _malformed("dtypes of head and arrays differ")
    flat = {name: _view(name, arrays[name], count) for name, count in counts.items()}
    state: State = {}
    start = dict.fromkeys(flat, 0)
    for key, dtype, shape in layout:
        end = start[dtype] + math.prod(shape)
        if key in state or len(shape) > 8:
            raise _malformed("a name comes twice, or an array has more than 8 axes")
        state[key] = flat[dtype][start[dtype] : end].reshape(shape)
        start[dtype] = end
    return state


def size_of(record: RecordDict) -> int:
    """Bytes of the arrays and of the head: what travels but for the transport's own frame."""
    arrays, head = record.get(STATE), record.get(HEAD)
    size = sum(len(array.data) for array in arrays.values()) if isinstance(arrays, ArrayRecord) else 0
    if isinstance(head, ConfigRecord):
        size += sum(len(value) for value in head.values() if isinstance(value, str))
    return size


def _head(record: RecordDict, key: str) -> str:
    head = record.get(HEAD)
    value = head.get(key) if isinstance(head, ConfigRecord) else None
    if not isinstance(value, str):
        raise _malformed("no head")
    return value


def _flat(name: str, values: list[np.ndarray]) -> Array:
    count = sum(value.size for value in values)
    dtype = np.dtype(name).newbyteorder("<")
    data = b"".join([_npy_head(name, count), *(np.ascontiguousarray(value, dtype=dtype).data for value in values)])
    return Array(dtype=name, shape=(count,), stype=NUMPY, data=data)


def _view(name: str, array: Array, count: int) -> np.ndarray:
    # DANGER: never np.load here, which can run code, nor numpy's parser of heads, which is not made for hostile bytes.
    # A sender of ours writes exactly one head for a dtype and a count; anything else is refused.
    head = _npy_head(name, count)
    size = len(head) + count * np.dtype(name).itemsize
    if array.stype != NUMPY or len(array.data) != size or not array.data.startswith(head):
        raise _malformed("an array is not the flat array that the head announces")
    return np.frombuffer(array.data, np.dtype(name).newbyteorder("<"), offset=len(head))


def _npy_head(name: str, count: int) -> bytes:
    stream = io.BytesIO()
    descr: dict[str, Any] = {
        "descr": np.lib.format.dtype_to_descr(np.dtype(name).newbyteorder("<")),
        "fortran_order": False,
        "shape": (count,),
    }
    np.lib.format.write_array_header_1_0(stream, descr)
    return stream.getvalue()


def _malformed(seen: str) -> OmniFedError:
    return OmniFedError(
        "OF503",
        "A message must hold one task or reply of the schema, and arrays that fit its head.",
        seen=seen,
        remedy="Install the same omnifed release at the coordinator and at the sites.",
    )
