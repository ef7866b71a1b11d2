"""The engines that run an exported model: ONNX Runtime of the base install, OpenVINO as an extra. No torch."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from omnifed.errors import OmniFedError
from omnifed.export.wire import damaged, metadata, refuse_external_data

if TYPE_CHECKING:
    from omnifed.devices.measurement import Engine
    from omnifed.export.card import Precision

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


def load(engine: Engine, model: bytes, threads: int, precision: Precision = "fp32") -> Loaded:
    """Loads a model with one image input, whose batch becomes 1.

    Args:
        engine: ``ort`` or ``openvino``, both on the CPU.
        model: content of the ONNX file; nothing else is read.
        threads: of one inference.
        precision: ``bf16`` lets OpenVINO compute in bfloat16, ONNX Runtime cannot on a CPU and stays in float32; the
            others are what the file says: float32, or int8 between its QDQ nodes.

    Raises:
        OmniFedError: OF602 if it does not load, OF603 if it refers to other files, OF702 if the engine is not
            installed, OF703 if its input is not one image of fixed size.
    """
    refuse_external_data(model)
    card = metadata(model).get(CARD, "")
    # The import of an engine is no part of the time to load.
    if engine == "ort":
        import onnxruntime  # noqa: F401

        start = time.perf_counter()
        session = ort_session(model, threads)
        load_s = time.perf_counter() - start
        inputs = session.get_inputs()
        shape = _image_shape([(part.shape, part.type) for part in inputs])
        feed = {inputs[0].name: image(shape, inputs[0].type)}
        return Loaded(lambda: session.run(None, feed), shape, load_s, card)
    openvino()
    start = time.perf_counter()
    network = openvino_model(model)
    kinds = openvino_ends(network.inputs)
    shape = _image_shape(kinds)
    request = openvino_request(network, shape, threads, precision)
    load_s = time.perf_counter() - start
    batch = [image(shape, kinds[0][1])]
    return Loaded(lambda: request.infer(batch, share_inputs=True), shape, load_s, card)


def image(shape: Sequence[int], kind: str) -> np.ndarray:
    """A made image: normal with mean 0 and deviation 1, as normalisation leaves one, the same at each call.

    Zeros would be no measurement: an engine's time may depend on values (zeros and denormals).

    Args:
        shape: of the input.
        kind: an engine's name of its type, one of :data:`TYPES`.
    """
    return np.random.default_rng([0]).standard_normal(shape, np.float32).astype(TYPES[kind])


def ort_session(model: bytes, threads: int) -> Any:
    """A session of ONNX Runtime on the CPU; the same for what is measured and for what runs.

    Args:
        model: content of the ONNX file, already looked through by :func:`~omnifed.export.wire.refuse_external_data`.
        threads: of one run; 0 leaves it to ONNX Runtime.

    Raises:
        OmniFedError: OF602 if it does not load.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's own exceptions share no base class
        raise damaged(f"{type(error).__name__}: {str(error)[:300]}") from None


def openvino_model(model: bytes) -> Any:
    """A model read by OpenVINO, not yet compiled; ``model`` as in :func:`ort_session`.

    Raises:
        OmniFedError: OF602 if it does not load, OF702 if OpenVINO is not installed.
    """
    try:
        return _core().read_model(model=model)
    except OmniFedError:
        raise
    except Exception as error:  # also UnicodeDecodeError, where its own message quotes the file
        raise damaged(f"OpenVINO: {str(error)[-300:]}") from None


def openvino_ends(ends: Sequence[Any]) -> list[tuple[list[Any], str]]:
    """Shape (None for a dynamic axis) and type's name of a model's inputs or outputs."""
    return [([_length(axis) for axis in e.partial_shape], e.element_type.get_type_name()) for e in ends]


def openvino_request(network: Any, shape: Sequence[int], threads: int, precision: Precision) -> Any:
    """Compiles a model for one image and returns its inference request.

    Args:
        network: from :func:`openvino_model`.
        shape: (1, channels, H, W).
        threads: of one inference; 0 leaves it to OpenVINO.
        precision: see :func:`load`; ``bf16`` is float32 where the processor lacks bfloat16.

    Raises:
        OmniFedError: OF602 if it does not compile.
    """
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        # Without the hint OpenVINO takes bfloat16 wherever the CPU has it.
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" and "BF16" in openvino_types() else "f32",
    }
    try:
        network.reshape(list(shape))
        return _core().compile_model(network, "CPU", settings).create_infer_request()
    except Exception as error:  # as above
        raise damaged(f"OpenVINO: {str(error)[-300:]}") from None


def _core() -> Any:
    return _only_core(openvino())


@cache
def _only_core(openvino: Any) -> Any:
    """The one Core of this process, never freed.

    Every Core of OpenVINO 2026.4 installs a stack for signal handlers and takes it away at its end, whosever is in use:
    after two of them the next Ctrl-C or SIGTERM met freed memory and the process died of SIGSEGV.
    """
    return openvino.Core()


def openvino_types() -> list[str]:
    """What OpenVINO computes fast on this processor: FP32, BF16, INT8, ..."""
    return list(_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))


def has_openvino() -> bool:
    """Whether OpenVINO is installed, without importing it."""
    return find_spec("openvino") is not None


def openvino() -> Any:
    """OpenVINO without openvino_telemetry.

    Its import reports itself to a web service, without being asked and into a file of the user's home. Where that
    package is missing it takes a stub that sends nothing: so for this process it is missing.

    Raises:
        OmniFedError: OF702 if it is not installed.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino as library
    except ImportError as error:
        raise OmniFedError(
            "OF702",
            "An engine must be installed before it can measure or run a model.",
            seen=f"openvino: {error}",
            remedy="Install the extra: pip install 'omnifed[openvino]', or use --engine ort.",
        ) from None
    return library


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
