"""Measures a model's inference on this machine, in a process of its own. Needs no torch."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from pydantic import ValidationError

from omnifed.devices.bench_child import broken
from omnifed.devices.measurement import MOST_VARIATION, Engine, Measurement
from omnifed.errors import OmniFedError
from omnifed.export.card import KEY, ExportCard, Precision
from omnifed.export.wire import damaged, metadata, refuse_external_data
from omnifed.models.scaling import architecture_key

Progress = Callable[[float], None]
"""Called about once a second with the share of the measurement that is done, 0..1."""


def bench(
    model: Path | bytes,
    *,
    engine: Engine = "ort",
    precision: Precision | None = None,
    threads: int = 1,
    warmups: int = 10,
    runs: int = 50,
    seconds: tuple[float, float] = (1.0, 10.0),
    limit_s: float = 300.0,
    network: str | None = None,
    accept_variation: bool = False,
    progress: Progress | None = None,
) -> Measurement:
    """Measures a model; once more if the first measurement varies too much.

    The process has only the engine in it, so that peak memory and crashes are the model's own, and ends when the
    caller does. One image, always the same, normal with mean 0 and deviation 1.

    Args:
        model: the ONNX file or its content, with one image input of fixed size.
        engine: ONNX Runtime or OpenVINO, on the CPU.
        precision: see :func:`omnifed.devices.engines.load`; None takes what the model's card says.
        threads: of one inference.
        warmups: fewest inferences before; they last at least 0.2 s.
        runs: fewest inferences measured.
        seconds: shortest and longest measurement; the longest comes before ``runs``, but never below 5 inferences.
        limit_s: wall time after which the process is killed, loading and warm-up included.
        network: name of the network; None takes the architecture key that the model's card tells, or the file's
            sha256.
        accept_variation: return what varies too much too.
        progress: see :data:`Progress`.

    Returns:
        The measurement; of two the one that varies less. Its variation is the runs' robust coefficient of variation,
        or the share of the time that the process waited for a core, whichever is larger.

    Raises:
        OmniFedError: OF602 or OF603 if the model does not load, OF701 if the measurement varies by more than 10 %,
            OF702 if the engine is not installed, OF703 for another input, OF704 if the process dies, OF705 if it takes
            too long.
    """
    content = _content(model)
    refuse_external_data(content)
    card = _card(content)
    request: dict[str, Any] = {"engine": engine, "threads": threads, "warmups": warmups, "runs": runs}
    request |= {"precision": precision or (card.precision if card else "fp32")}
    request |= {"least_s": seconds[0], "most_s": seconds[1]}
    with tempfile.TemporaryDirectory() as folder:
        path = model if isinstance(model, Path) else Path(folder) / "model.onnx"
        if isinstance(model, bytes):
            path.write_bytes(content)
        request["model"] = str(path.resolve())
        best: Measurement | None = None
        for _ in range(2):
            figures = _ask(request, limit_s, progress or (lambda share: None))
            name = network or (architecture_key(card.student) if card else hashlib.sha256(content).hexdigest())
            measured = Measurement(network=name, engine=engine, threads=threads, **figures)
            best = measured if best is None or measured.variation < best.variation else best
            if best.variation <= MOST_VARIATION:
                return best
    assert best is not None
    if not accept_variation:
        raise unsteady(best)
    return best


def unsteady(measured: Measurement) -> OmniFedError:
    """OF701 for a measurement that varies too much."""
    return OmniFedError(
        "OF701",
        f"A measurement counts only if its runs vary, and wait for a core, by at most {MOST_VARIATION:.0%}.",
        seen=f"{measured.variation:.0%} at {measured.p50_ms:.3g} ms ({measured.cpu_ms:.3g} ms of CPU time), "
        f"{measured.network}",
        remedy="Close other programs, set a fixed clock (governor performance, mains power), let the machine cool, use "
        "fewer threads than cores, or take more runs.",
    )


def _content(model: Path | bytes) -> bytes:
    if isinstance(model, bytes):
        return model
    try:
        return model.read_bytes()
    except OSError as error:
        raise damaged(f"{model}: {error.strerror or error}") from None


def _card(content: bytes) -> ExportCard | None:
    """What the model says of itself; None where it is not one of OmniFed's."""
    try:
        return ExportCard.model_validate_json(metadata(content).get(KEY, ""))
    except ValidationError:
        return None


def _ask(request: dict[str, Any], limit_s: float, progress: Progress) -> dict[str, Any]:
    """One measuring process from start to end; its ``result``."""
    threads = str(request["threads"])
    late = threading.Event()
    with tempfile.TemporaryFile("w+", errors="replace") as errors:
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", "omnifed.devices.bench_child", json.dumps(request)],
            env=os.environ | {"OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )

        def end() -> None:
            late.set()
            child.kill()

        timer = threading.Timer(limit_s, end)
        timer.start()
        try:
            answer = _listen(child, progress)
            status = child.wait()
        finally:
            timer.cancel()
            child.kill()
            child.wait()
        if answer is None:
            raise _too_long(limit_s) if late.is_set() else broken(_death(status, errors))
    if "error" in answer:
        code, rule, seen, remedy = answer["error"]
        raise OmniFedError(code, rule, seen=seen, remedy=remedy)
    return answer["result"]


def _listen(child: subprocess.Popen[str], progress: Progress) -> dict[str, Any] | None:
    """The last word of the process; None if it ends without one."""
    assert child.stdout is not None
    with child.stdout:
        for line in child.stdout:
            answer = json.loads(line)
            if "share" not in answer:
                return answer
            progress(min(1.0, answer["share"]))
    return None


def _too_long(limit_s: float) -> OmniFedError:
    return OmniFedError(
        "OF705",
        "A measurement must end within its time limit.",
        seen=f"not ended after {limit_s:g} s",
        remedy="The model is too slow for this device, or the device is too busy: take a smaller model or image.",
    )


def _death(status: int, errors: IO[str]) -> str:
    """How a process ended that gave no answer."""
    if status == -signal.SIGKILL:
        return "it was killed, most likely because memory ran out"
    errors.seek(0)
    last = (errors.read().strip().splitlines() or ["no message"])[-1][:300]
    return f"{signal.Signals(-status).name if status < 0 else f'exit code {status}'}: {last}"
