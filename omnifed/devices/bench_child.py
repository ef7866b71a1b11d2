"""The measured process: ``python -m omnifed.devices.bench_child REQUEST``, started by :mod:`omnifed.devices.bench`.

It imports the engine and little else, as its peak memory is a figure. REQUEST is JSON; the answer is one JSON object a
line on standard output: ``{"share": 0..1}`` while it runs, at last ``{"result": {...}}`` or ``{"error": [...]}``.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from omnifed.devices.energy import SYS, EnergyMeter
from omnifed.devices.engines import load
from omnifed.errors import OmniFedError

WARM_S = 0.2
"""Shortest warm-up: processors take this long to raise their clock."""
FEWEST_RUNS = 5
"""Runs of a network so slow that the longest time is over before."""
BLOCKS = 50
TELL_S = 1.0
"""Between two signs of life; a measuring process should be left alone."""


@dataclass(frozen=True)
class Plan:
    """How long to measure.

    Attributes:
        warmups, runs: fewest inferences before and in the measurement.
        least_s, most_s: shortest and longest measurement in seconds; the longest comes before ``runs``.
    """

    warmups: int
    runs: int
    least_s: float
    most_s: float


def measure(infer: Callable[[], object], plan: Plan, tell: Callable[[float], None], sys_root: Path = SYS) -> dict:
    """Runs inferences one after the other, each with its own wall time.

    Args:
        infer: one inference.
        plan: how many.
        tell: called about once a second, between two inferences, with the share that is done.
        sys_root: where the energy counters lie.

    Returns:
        Fields of :class:`~omnifed.devices.measurement.Measurement`.
    """
    warmups = _warm_up(infer, plan.warmups)
    tell(0.0)
    walls: list[int] = []
    told, meter = 0.0, EnergyMeter(sys_root)
    queued, cpu, began = queued_s(), time.process_time(), time.perf_counter_ns()
    while True:
        before = time.perf_counter_ns()
        infer()
        after = time.perf_counter_ns()
        walls.append(after - before)
        spent = (after - began) / 1e9
        if len(walls) >= FEWEST_RUNS and (spent >= plan.most_s or (len(walls) >= plan.runs and spent >= plan.least_s)):
            break
        if spent - told >= TELL_S:
            told = spent
            meter.sample()
            tell(max(spent / plan.most_s, min(len(walls) / plan.runs, spent / plan.least_s)))
    cpu_s, queued, energy = time.process_time() - cpu, queued_s() - queued, meter.millijoules()
    wall = np.array(walls) / 1e6
    return {
        "warmups": warmups,
        "runs": len(walls),
        "p50_ms": float(np.percentile(wall, 50)),
        "p95_ms": float(np.percentile(wall, 95)),
        "cpu_ms": cpu_s * 1000 / len(walls),
        "variation": max(variation(wall), waiting(spent, cpu_s, queued)),
        "energy_mj": None if energy is None else energy / len(walls),
    }


def _warm_up(infer: Callable[[], object], least: int) -> int:
    done, start = 0, time.perf_counter()
    while done < least or time.perf_counter() - start < WARM_S:
        infer()
        done += 1
    return done


def variation(wall: np.ndarray) -> float:
    """Robust coefficient of variation of runs, at the scale of a fiftieth of the measurement.

    The runs are cut into up to 50 blocks in the order of time; with q25, q50, q75 the quartiles of the blocks'
    medians it is (q75 - q25) / 1.349 / q50, which is the coefficient of variation of normal values. Single
    interruptions and the jitter of runs below a millisecond do not count; a clock that falls during the measurement
    and another program that comes and goes do. A program that stays is seen by :func:`waiting`.

    Args:
        wall: (runs,) times in any unit, in order.
    """
    blocks = np.array_split(wall, min(BLOCKS, len(wall)))
    low, middle, high = np.percentile([np.median(block) for block in blocks], [25, 50, 75])
    return float((high - low) / 1.349 / middle)


def waiting(wall_s: float, cpu_s: float, queued_s: float) -> float:
    """Share of the wall time that was spent waiting for a core, 0..1.

    Another program that never rests makes all runs slower by the same factor: they do not vary, and yet their time is
    no property of the model. At least one thread computes at any time, so that wall - CPU time was waited; with several
    threads each one's time in the queue holds up the others.

    Args:
        wall_s: of the measurement.
        cpu_s: of the process, all threads.
        queued_s: that its threads waited in the queue, in sum.
    """
    return min(1.0, max(0.0, 1 - cpu_s / wall_s, queued_s / wall_s))


def queued_s(proc: Path = Path("/proc/self")) -> float:
    """Seconds that this process's threads were ready and waited for a core; 0 where the kernel does not tell.

    Args:
        proc: the process's folder.
    """
    waited = 0
    for task in proc.glob("task/*/schedstat"):
        with suppress(OSError):  # a thread that has just ended
            waited += int(task.read_text().split()[1])  # time on CPU, time in the queue (ns), slices
    return waited / 1e9


def peak_mib() -> float:
    """Largest resident memory of this program in MiB.

    Not getrusage's: on Linux that begins with the memory of the process that started this one, torch and all.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024
    except (OSError, StopIteration):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)


def run(request: dict[str, Any], tell: Callable[[float], None]) -> dict:
    """Loads and measures.

    Args:
        request: ``model`` (path), ``engine``, ``threads``, ``precision`` and the fields of :class:`Plan`.
        tell: see :func:`measure`.

    Raises:
        OmniFedError: as :func:`~omnifed.devices.engines.load`; OF704 if an inference fails.
    """
    model = load(request["engine"], Path(request["model"]).read_bytes(), request["threads"], request["precision"])
    plan = Plan(**{name: request[name] for name in Plan.__dataclass_fields__})
    try:
        gc.disable()
        figures = measure(model.infer, plan, tell)
    except (BrokenPipeError, KeyboardInterrupt):
        raise
    except Exception as error:  # the engines' own exceptions share no base class
        raise broken(f"{type(error).__name__}: {str(error)[:300]}") from None
    return figures | {
        "size": model.size,
        "load_ms": model.load_s * 1000,
        "peak_mib": peak_mib(),
    }


def broken(seen: str) -> OmniFedError:
    """OF704 with what was seen."""
    return OmniFedError(
        "OF704",
        "The process that measures a model must come to its end.",
        seen=seen,
        remedy="Take a smaller model or image if memory is short; see whether the model runs elsewhere.",
    )


def main() -> None:
    """Answers the request of the command line."""
    # What the engines' libraries print must not get between the answers.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def say(answer: dict[str, object]) -> None:
        answers.write(json.dumps(answer) + "\n")  # a dead reader ends this process: BrokenPipeError

    try:
        say({"result": run(json.loads(sys.argv[1]), lambda share: say({"share": share}))})
    except OmniFedError as error:
        say({"error": [error.code, error.rule, error.seen, error.remedy]})


if __name__ == "__main__":
    main()
