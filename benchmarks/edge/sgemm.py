"""The rate of float32 matrix products on this machine: what a network's speed is held against (its roofline)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import torch
from edge.interleaved import Times
from onnx import TensorProto, helper, numpy_helper

from omnifed.devices.engines import openvino_model, openvino_request, ort_session
from omnifed.export.card import OPSET

SIZES = (1024, 2048)


def programs(threads: int = 1) -> dict[str, Callable[[], object]]:
    """Square products by each library's own kernel: torch, ONNX Runtime, OpenVINO."""
    found: dict[str, Callable[[], object]] = {}
    for n in SIZES:
        left, right = np.random.default_rng([n]).standard_normal((2, n, n), np.float32)
        model = _product(right)
        session = ort_session(model, threads)
        request = openvino_request(openvino_model(model), (n, n), threads, "fp32")
        found |= {
            f"sgemm torch {n}": _torch(left, right, threads),
            f"sgemm ort {n}": lambda session=session, left=left: session.run(None, {"a": left}),
            f"sgemm openvino {n}": lambda request=request, left=left: request.infer([left], share_inputs=True),
        }
    return found


def gflops(measured: dict[str, Times]) -> dict[str, float]:
    """Billions of floating-point operations a second (2 n^3 a product) by program."""
    return {
        name: 2 * int(name.split()[-1]) ** 3 / found.p50_ms / 1e6
        for name, found in measured.items()
        if name.startswith("sgemm ")
    }


def _torch(left: np.ndarray, right: np.ndarray, threads: int) -> Callable[[], object]:
    a, b = torch.from_numpy(left), torch.from_numpy(right)
    out = torch.empty_like(a)

    def product() -> None:
        torch.set_num_threads(threads)
        torch.matmul(a, b, out=out)

    return product


def _product(right: np.ndarray) -> bytes:
    n = len(right)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [n, n]) for name in "ay"]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["a", "b"], ["y"])],
        "product",
        ends[:1],
        ends[1:],
        [numpy_helper.from_array(right, "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    onnx.checker.check_model(model)
    return model.SerializeToString()
