"""Networks as ONNX files of one image each, in float32 and int8: the same path for students and rivals."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from edge.networks import CHANNELS
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from omnifed.export.card import INPUT, OUTPUT
from omnifed.export.quantise import OPERATORS
from omnifed.export.quiet import quiet_exporters

OPSET = 20
"""The first with GELU as one operator: in pieces, as opset 18 has it, its pieces would be quantised."""
EIGHT_BITS = [*OPERATORS, "MatMul"]
"""What `omnifed export` quantises in students, and the matrix products of transformers."""


class _Logits(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        return self.network(image).logits


def lived_in(network: nn.Module, *, seed: int = 0) -> nn.Module:
    """A copy of a fresh network with drawn norms, in evaluation mode.

    Statistics of 0 and 1 and affines of 1 and 0 would let an engine leave work out that a trained network has.
    """
    network = copy.deepcopy(network).eval()
    draw = torch.Generator().manual_seed(seed)
    for part in network.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.running_mean.uniform_(-0.2, 0.2, generator=draw)
            part.running_var.uniform_(0.5, 1.5, generator=draw)
            part.weight.data.uniform_(0.5, 1.5, generator=draw)
            part.bias.data.uniform_(-0.2, 0.2, generator=draw)
    return network


def macs(network: nn.Module, side: int) -> int:
    """Multiply-accumulates of the convolutions and matrix products of one square image."""
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        copy.deepcopy(network).eval()(torch.zeros(1, CHANNELS, side, side))
    return counter.get_total_flops() // 2


def to_onnx(network: nn.Module, side: int) -> bytes:
    """The ONNX file of a network for one square image; what the network can fold away is folded."""
    network = copy.deepcopy(network).eval()
    network = network.folded() if hasattr(network, "folded") else network
    with quiet_exporters():
        program = torch.onnx.export(
            _Logits(network),
            (torch.zeros(1, CHANNELS, side, side),),
            dynamo=True,
            input_names=[INPUT],
            output_names=[OUTPUT],
            opset_version=OPSET,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    return program.model_proto.SerializeToString()


def to_int8(model: bytes, images: Iterable[np.ndarray]) -> bytes:
    """Quantises weights a channel and activations a tensor to int8 (QDQ), calibrated on images.

    Args:
        model: the ONNX file in float32.
        images: (1, 3, H, W) float32 each.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.rest = iter(images)

        def get_next(self) -> dict[str, np.ndarray] | None:
            image = next(self.rest, None)
            return None if image is None else {INPUT: image}

    with tempfile.TemporaryDirectory() as folder, quiet_exporters():
        plain, ready, done = (Path(folder) / f"{name}.onnx" for name in ("plain", "ready", "int8"))
        plain.write_bytes(model)
        quant_pre_process(plain, ready, skip_symbolic_shape=True)
        quantize_static(
            ready,
            done,
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=EIGHT_BITS,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        return done.read_bytes()
