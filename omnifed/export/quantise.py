"""Static int8: QDQ nodes around what the engines run in eight bits, ranges from the site's own images.

Measured on two students (compact; compact with stem stride 2 and depthwise fusion) at two sites of 128x128 pixels:

- isic (Dice 0.91, 52 cases): minmax, the 99.99th percentile and entropy end within 0.2 Dice points of float32 and of
  each other. curvas_ct (students of 150 steps, Dice 0.5, 28 cases): the loss is between 0 and 10 points and differs as
  much between the two engines as between settings; bfloat16 loses 3. No setting is told apart: logits of an unfinished
  student are so close together that any rounding decides. So minmax and the percentile are both tried, and each site's
  training images choose for each engine.
- leaving the first or the last convolution, or the gates' products, in float32 changed no loss beyond that noise and
  gained less than 5 % of time; they are quantised. The gate's own small layers (pooling, two matrices, sigmoid) stay
  in float32.
- the maps between convolutions (Concat, MaxPool, Resize, Add, Mul, Relu) are quantised with them: convolutions alone
  were 8 and 9 % slower in OpenVINO, and on the smaller student in ONNX Runtime 1.5 times as slow as float32.

What is left: int8 in OpenVINO takes 0.37 of float32's time on compact, but 0.62 on its stride-2, depthwise form, where
depthwise convolutions gain nothing from eight bits (0.8 ms of 4.8) and upsampling stays in float32 (0.9 ms). ONNX
Runtime's int8 is 0.75 and 0.96. One core of an EPYC with AVX-512 VNNI and BF16, 256x256.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static

from omnifed.errors import OmniFedError
from omnifed.export.card import INPUT, KEY
from omnifed.export.graph import set_card, strip
from omnifed.export.quiet import quiet_exporters
from omnifed.export.session import read_card
from omnifed.export.wire import metadata

Calibration = Literal["minmax", "percentile"]
CALIBRATIONS: tuple[Calibration, ...] = ("minmax", "percentile")
OPERATORS = ["Conv", "Concat", "MaxPool", "Resize", "Add", "Mul", "Relu"]
MOST_IMAGES = 64
"""Images that are calibrated on."""
HISTOGRAM_IMAGES = 16
"""Of these, images whose histograms are taken: they cost ten times as much as a minimum and a maximum."""
PERCENTILE = 99.99
READY = "onnx.quant.pre_process"
"""Metadata key by which ONNX Runtime knows that shapes are known and constants folded, as the exporter leaves them."""


def quantise(model: bytes, images: np.ndarray, calibration: Calibration = "minmax") -> bytes:
    """Quantises an exported model: weights s8 by output channel, activations u8 by tensor.

    Args:
        model: content of a float32 ONNX file of :mod:`omnifed.export.onnx`.
        images: (N, channels, H, W), N at least 1, normalised, any float type; a memory map is read image by image.
            At most :data:`MOST_IMAGES`, evenly spread, are used.
        calibration: where an activation's range ends: at its extremes, or at the 0.01st and 99.99th percentile.

    Returns:
        Content of one ONNX file without external data, whose card says ``int8``.

    Raises:
        OmniFedError: OF606 if ONNX Runtime cannot quantise it.
    """
    card = read_card(metadata(model)[KEY])
    proto = onnx.load_from_string(model)
    proto.metadata_props.add(key=READY, value="onnxruntime.quant")
    method = CalibrationMethod.MinMax if calibration == "minmax" else CalibrationMethod.Percentile
    with tempfile.TemporaryDirectory() as folder, quiet_exporters():
        source, target = Path(folder) / "fp32.onnx", Path(folder) / "int8.onnx"
        onnx.save(proto, source)
        try:
            quantize_static(
                source,
                target,
                _Images(images, MOST_IMAGES if calibration == "minmax" else HISTOGRAM_IMAGES),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=OPERATORS,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=method,
                # One image at a time for every method, whatever the option's name says: nothing piles up.
                extra_options={"CalibStridedMinMax": 1, "CalibPercentile": PERCENTILE},
            )
        except Exception as error:  # onnxruntime.quantization raises what it pleases
            raise OmniFedError(
                "OF606",
                "The installed versions must be able to quantise the student.",
                seen=f"{type(error).__name__}: {str(error)[:300]}",
                remedy="Use the versions of onnx and onnxruntime that OmniFed's site extra names, or --precision fp32.",
            ) from None
        done = onnx.load(target, load_external_data=False)
    strip(done.graph)
    set_card(done, card.model_copy(update={"precision": "int8"}))
    return done.SerializeToString()


def evenly(n: int, most: int) -> np.ndarray:
    """At most ``most`` row numbers of ``n``, evenly spread, ascending; all where there are no more."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).round().astype(int))


class _Images(CalibrationDataReader):
    """Feeds images one by one."""

    def __init__(self, images: np.ndarray, most: int) -> None:
        self.images, self.rows = images, evenly(len(images), most)
        self.range = iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def set_range(self, start_index: int, end_index: int) -> None:
        self.range = iter(self.rows[start_index:end_index])

    def get_next(self) -> dict[str, Any] | None:
        row = next(self.range, None)
        return None if row is None else {INPUT: np.asarray(self.images[row], np.float32)[None]}
