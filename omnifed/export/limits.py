"""What a model may ask of an engine, looked at before an engine sees it. Needs no onnx package.

A student is one straight graph of standard operators with dense weights. Refused is what it never needs and an attacker
might: operators of other domains, functions and training graphs inside the file, graphs within nodes (loops, branches),
sparse tensors (a few bytes that unfold to gigabytes), tensors that declare more than they hold, more nodes than any
network has. What a standard graph computes shows only when it runs: a file of 200 bytes can still tile a number to
gigabytes there. Against that only a signature helps (:mod:`omnifed.trust.manifest`), and a process with limits.
"""

from __future__ import annotations

from math import prod

from omnifed.errors import OmniFedError
from omnifed.export.wire import BYTES, damaged, fields, varints

MOST_BYTES = 2**31 - 1
"""Largest message that protobuf's own parsers take; an ONNX file beyond it can only be one with external data."""
MOST_NODES = 20_000
"""The largest student has 500, SAM's largest encoder 5,000."""
DOMAINS = ("", "ai.onnx")
_GRAPH, _OPSETS, _TRAINING, _FUNCTIONS = 7, 8, 20, 25
_NODES, _TENSORS, _SPARSE = 1, 5, 15
_OPERATOR, _ATTRIBUTES, _DOMAIN = 4, 5, 7
_TENSOR_IN, _TENSORS_IN = 5, 10
_GRAPHS_IN = {6: "a graph", 11: "graphs", 22: "a sparse tensor", 23: "sparse tensors"}
_DIMS = 1


def refuse_strange(model: bytes) -> None:
    """Checks that a model is one graph of standard operators that declares no more than it holds.

    Args:
        model: content of an ONNX file.

    Raises:
        OmniFedError: OF602 if the bytes are no protobuf message, OF874 for what no student needs.
    """
    graphs = 0
    for number, wire, value in fields(memoryview(model)):
        if number in (_TRAINING, _FUNCTIONS):
            raise _strange("a training graph" if number == _TRAINING else "functions of its own")
        if wire != BYTES or not isinstance(value, memoryview):
            continue
        if number == _OPSETS:
            _check_domain(value, 1)
        elif number == _GRAPH:
            graphs += 1
            _check_graph(value)
    if graphs > 1:
        raise _strange(f"{graphs} graphs")


def _check_graph(graph: memoryview) -> None:
    nodes = 0
    for number, _, value in fields(graph):
        if number == _SPARSE:
            raise _strange("a sparse tensor")
        if not isinstance(value, memoryview):
            continue
        if number == _TENSORS:
            _check_tensor(value)
        elif number == _NODES:
            nodes += 1
            if nodes > MOST_NODES:
                raise _strange(f"more than {MOST_NODES} nodes")
            _check_node(value)


def _check_node(node: memoryview) -> None:
    _check_domain(node, _DOMAIN)
    for number, _, attribute in fields(node):
        if number != _ATTRIBUTES or not isinstance(attribute, memoryview):
            continue
        for kind, _, value in fields(attribute):
            if kind in _GRAPHS_IN:
                operator = [
                    bytes(text) for n, _, text in fields(node) if n == _OPERATOR and isinstance(text, memoryview)
                ]
                raise _strange(f"{_GRAPHS_IN[kind]} within a node {b''.join(operator).decode(errors='replace')[:40]!r}")
            if kind in (_TENSOR_IN, _TENSORS_IN) and isinstance(value, memoryview):
                _check_tensor(value)


def _check_domain(message: memoryview, field: int) -> None:
    for number, _, value in fields(message):
        if number == field and isinstance(value, memoryview):
            domain = bytes(value).decode(errors="replace")
            if domain not in DOMAINS:
                raise _strange(f"operators of the domain {domain[:60]!r}")


def _check_tensor(tensor: memoryview) -> None:
    """A tensor of n elements holds at least n bits."""
    sides: list[int] = []
    for number, _, value in fields(tensor):
        if number == _DIMS:
            sides += varints(value) if isinstance(value, memoryview) else [value]
    if prod(sides) > 8 * len(tensor) or max(sides, default=0) >= 2**63:
        raise _strange(f"a tensor that declares {'x'.join(map(str, sides[:8]))} elements in {len(tensor)} bytes")


def check_size(size: int) -> None:
    """Refuses what cannot be an ONNX file.

    Raises:
        OmniFedError: OF602 above :data:`MOST_BYTES`.
    """
    if size > MOST_BYTES:
        raise damaged(f"{size} bytes; an ONNX file has at most {MOST_BYTES}")


def _strange(seen: str) -> OmniFedError:
    return OmniFedError(
        "OF874",
        "A model must be one straight graph of standard ONNX operators that declares no more than it holds.",
        seen=seen,
        remedy="Export the student with OmniFed. Do not use a model whose origin you do not know: see omnifed verify.",
    )
