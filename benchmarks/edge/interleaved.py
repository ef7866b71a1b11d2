"""Many programs measured in one run, round robin: what slows the machine for a while slows all of them alike."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from omnifed.devices.bench_child import queued_s, waiting


@dataclass(frozen=True)
class Times:
    """Wall times of one program.

    Attributes:
        p50_ms: median over the rounds of the median of a visit.
        spread: (q75 - q25) / 1.349 / median over the rounds.
        rounds: visits.
    """

    p50_ms: float
    spread: float
    rounds: int


def times(rounds_ms: list[float]) -> Times:
    """Summary of one time a round."""
    low, middle, high = np.percentile(rounds_ms, [25, 50, 75])
    return Times(float(middle), float((high - low) / 1.349 / middle), len(rounds_ms))


def interleave(
    programs: Mapping[str, Callable[[], object]],
    rounds: int,
    *,
    runs: int = 3,
    seed: int = 0,
    tell: Callable[[int], None] = lambda done: None,
) -> tuple[dict[str, Times], float]:
    """Visits each program once a round, in an order drawn anew; a visit is one warm-up and ``runs`` timed runs.

    Args:
        programs: by name.
        rounds: visits of each.
        runs: timed runs a visit; their median counts.
        seed: of the orders.
        tell: called after each round.

    Returns:
        The times by name, and the share of the wall time that this process waited for a core, 0..1: above a few
        percent the machine was not quiet.
    """
    found: dict[str, list[float]] = {name: [] for name in programs}
    names = list(programs)
    gc.collect()
    gc.disable()
    began, cpu, queued = time.perf_counter(), time.process_time(), queued_s()
    try:
        for turn in range(rounds):
            for i in np.random.default_rng([seed, turn]).permutation(len(names)):
                found[names[i]].append(_visit(programs[names[i]], runs))
            tell(turn + 1)
    finally:
        gc.enable()
    waited = waiting(time.perf_counter() - began, time.process_time() - cpu, queued_s() - queued)
    return {name: times(values) for name, values in found.items()}, waited


def _visit(program: Callable[[], object], runs: int) -> float:
    program()
    walls = []
    for _ in range(runs):
        start = time.perf_counter()
        program()
        walls.append(time.perf_counter() - start)
    return float(np.median(walls)) * 1000
