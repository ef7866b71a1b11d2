"""Looks into an ONNX file without the onnx package: does it ask the runtime to read other files?

ONNX Runtime follows references to external tensor data even where a model is loaded from bytes, relative to the working
folder. A model that came from elsewhere could so read files of the site; hence the file is walked before it is loaded.
The format is protobuf's (https://protobuf.dev/programming-guides/encoding/); field numbers are those of onnx.proto.
"""

from __future__ import annotations

from collections.abc import Iterator

from omnifed.errors import OmniFedError

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
MAX_DEPTH = 100
"""Nesting at which protobuf's own parsers give up."""

CHILDREN: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
"""Message to the fields that may lead to a tensor."""
EXTERNAL_DATA, DATA_LOCATION = 13, 14
"""Fields of TensorProto; any use of the first, or the second other than 0, is a reference to another file."""


def refuse_external_data(model: bytes) -> None:
    """Checks that all tensors of a model lie in the file itself.

    Args:
        model: content of an ONNX file.

    Raises:
        OmniFedError: OF602 if the bytes are no protobuf message, OF603 if a tensor refers to another file.
    """
    _walk(memoryview(model), "model", 0)


METADATA, KEY, VALUE = 14, 1, 2
"""Fields of ModelProto (metadata_props) and of its entries."""


MOST_TEXT = 2**20
"""Bytes of one entry of the metadata."""


def metadata(model: bytes) -> dict[str, str]:
    """The metadata of a model by key, read before any engine sees the file.

    Args:
        model: content of an ONNX file.

    Raises:
        OmniFedError: OF602 if the bytes are no protobuf message, or if a key comes twice: engines take one, we another.
    """
    found: dict[str, str] = {}
    for number, _, entry in fields(memoryview(model)):
        if number == METADATA and isinstance(entry, memoryview):
            if len(entry) > MOST_TEXT:
                raise damaged(f"metadata of {len(entry)} bytes")
            parts = {key: bytes(value) for key, _, value in fields(entry) if isinstance(value, memoryview)}
            name = _text(parts.get(KEY, b""))
            if name in found:
                raise damaged(f"the metadata key {name[:40]!r} comes twice")
            found[name] = _text(parts.get(VALUE, b""))
    return found


def _text(value: bytes) -> str:
    return value.decode(errors="replace")


def _walk(message: memoryview, kind: str, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise damaged("nested too deeply")
    for number, wire, value in fields(message):
        child = CHILDREN[kind].get(number)
        if child and isinstance(value, memoryview):
            _walk(value, child, depth + 1)
        elif kind == "tensor" and (number == EXTERNAL_DATA or (number == DATA_LOCATION and value != 0)):
            raise OmniFedError(
                "OF603",
                "A model must hold all its weights itself; references to other files are refused.",
                seen=f"TensorProto field {number} (wire type {wire})",
                remedy="Save the model as one file (onnx.save without external data).",
            )


def fields(message: memoryview) -> Iterator[tuple[int, int, int | memoryview]]:
    """Number, wire type and value of each field; a fixed-width number's value is its bytes.

    Raises:
        OmniFedError: OF602 if the bytes are no protobuf message.
    """
    at, end = 0, len(message)
    while at < end:
        tag, at = _varint(message, at)
        number, wire = tag >> 3, tag & 7
        if not 0 < number < 2**29:
            # The engines' parsers drop the upper bits: they would see a graph where we see an unknown field.
            raise damaged(f"field number {number}")
        if wire == VARINT:
            value, at = _varint(message, at)
            yield number, wire, value
            continue
        if wire == BYTES:
            length, at = _varint(message, at)
        elif wire in (FIXED64, FIXED32):
            length = 8 if wire == FIXED64 else 4
        else:
            raise damaged(f"wire type {wire}")
        if length > end - at:
            raise damaged("cut short")
        yield number, wire, message[at : at + length]
        at += length


def varints(packed: memoryview) -> list[int]:
    """The numbers of a packed repeated field.

    Raises:
        OmniFedError: OF602 if the bytes are none.
    """
    numbers, at = [], 0
    while at < len(packed):
        number, at = _varint(packed, at)
        numbers.append(number)
    return numbers


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise damaged("cut short")
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise damaged("a number of more than 10 bytes")


def damaged(seen: str) -> OmniFedError:
    """OF602 with what was seen."""
    return OmniFedError(
        "OF602",
        "An exported model must be a readable ONNX file that ONNX Runtime loads.",
        seen=seen,
        remedy="Export or copy the model again; compare its sha256 with the one that the export printed.",
    )
