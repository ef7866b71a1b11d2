"""The engines that run an exported model: ONNX Runtime of the base install, OpenVINO as an extra. No torch."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from omnifed.errors import OmniFedError
from omnifed.export.wire import damaged, refuse_external_data

if TYPE_CHECKING:
    from omnifed.devices.measurement import Engine

CARD = "omnifed"
"""Metadata key of :mod:`omnifed.export.card`, which needs pydantic; a measured process stays small."""
TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "f32": np.float32, "f16": np.float16}
"""What both engines call the types of an image."""


@dataclass(frozen=True)
class Loaded:
    """A model that is ready to run.

    Attributes:
        infer: one inference of one image, always the same.
        shape: of the input, (1, channels, H, W) or (1, H, W, channels).
        load_s: wall time of parsing and compiling, without the engine's own import.
        card: the model's metadata of OmniFed, JSON; "" where it has none.
    """

    infer: Callable[[], object]
    shape: tuple[int, ...]
    load_s: float
    card: str

    @property
    def size(self) -> tuple[int, int]:
        """Height and width; of the two layouts the one whose channels are fewer than its columns."""
        _, first, second, last = self.shape
        return (second, last) if first <= last else (first, second)


def load(engine: Engine, model: bytes, threads: int) -> Loaded:
    """Loads a model with one image input, whose batch becomes 1.

    Args:
        engine: ``ort`` or ``openvino``, both on the CPU, in float32.
        model: content of the ONNX file; nothing else is read.
        threads: of one inference.

    Raises:
        OmniFedError: OF602 if it does not load, OF603 if it refers to other files, OF702 if the engine is not
            installed, OF703 if its input is not one image of fixed size.
    """
    refuse_external_data(model)
    return {"ort": _ort, "openvino": _openvino}[engine](model, threads)


def image(shape: Sequence[int], kind: str) -> np.ndarray:
    """A made image: normal with mean 0 and deviation 1, as normalisation leaves one, the same at each call.

    Zeros would be no measurement: an engine's time may depend on values (zeros and denormals).

    Args:
        shape: of the input.
        kind: an engine's name of its type, one of :data:`TYPES`.
    """
    return np.random.default_rng([0]).standard_normal(shape, np.float32).astype(TYPES[kind])


def _ort(model: bytes, threads: int) -> Loaded:
    import onnxruntime

    options = onnxruntime.SessionOptions()  # the options of omnifed.export.session: what is measured is what runs
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    start = time.perf_counter()
    try:
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's own exceptions share no base class
        raise damaged(f"{type(error).__name__}: {str(error)[:300]}") from None
    load_s = time.perf_counter() - start
    inputs = session.get_inputs()
    shape = _image_shape([(part.shape, part.type) for part in inputs])
    feed = {inputs[0].name: image(shape, inputs[0].type)}
    card = session.get_modelmeta().custom_metadata_map.get(CARD, "")
    return Loaded(lambda: session.run(None, feed), shape, load_s, card)


def _openvino(model: bytes, threads: int) -> Loaded:
    openvino = _quiet_openvino()
    core, start = openvino.Core(), time.perf_counter()
    try:
        network = core.read_model(model=model)
    except RuntimeError as error:
        raise damaged(f"OpenVINO: {str(error)[-300:]}") from None
    inputs = [([_length(axis) for axis in part.partial_shape], part.element_type) for part in network.inputs]
    kinds = [(shape, kind.get_type_name()) for shape, kind in inputs]
    shape = _image_shape(kinds)
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    try:
        network.reshape(list(shape))
        request = core.compile_model(network, "CPU", settings).create_infer_request()
    except RuntimeError as error:
        raise damaged(f"OpenVINO: {str(error)[-300:]}") from None
    load_s = time.perf_counter() - start
    feed = [image(shape, kinds[0][1])]
    path = ["framework", CARD]
    card = str(network.get_rt_info(path).value) if network.has_rt_info(path) else ""
    return Loaded(lambda: request.infer(feed, share_inputs=True), shape, load_s, card)


def _quiet_openvino() -> Any:
    """OpenVINO without openvino_telemetry.

    Its import reports itself to a web service, without being asked and into a file of the user's home. Where that
    package is missing it takes a stub that sends nothing: so for this process it is missing.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino
    except ImportError as error:
        raise OmniFedError(
            "OF702",
            "An engine must be installed before it can measure.",
            seen=f"openvino: {error}",
            remedy="Install the extra: pip install 'omnifed[openvino]', or use --engine ort.",
        ) from None
    return openvino


def _length(axis: Any) -> int | None:
    return axis.get_length() if axis.is_static else None


def _image_shape(inputs: list[tuple[list[Any], str]]) -> tuple[int, ...]:
    """The shape of one image; the engines name a dynamic axis with a string or None."""
    if len(inputs) == 1:
        axes, kind = inputs[0]
        fixed = all(isinstance(axis, int) and axis > 0 for axis in axes[1:])
        if len(axes) == 4 and fixed and kind in TYPES and (axes[0] == 1 or not isinstance(axes[0], int)):
            return (1, *axes[1:])
    raise OmniFedError(
        "OF703",
        "A measured model must have one input: one image of floats whose channels, height and width are fixed.",
        seen="; ".join(f"{kind} {axes}" for axes, kind in inputs) or "no input",
        remedy="Export the model with a fixed image size; only the batch may be dynamic.",
    )
