"""The coordinator's side of `benchmarks/deployed_overhead.py`, run by Flower: asks one site the same task many times.

The task was finished before, so the site answers it from its store: everything but the work is there. Times and CPU
seconds of the site's processes go to OMNIFED_BENCH/result.json.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from omnifed.federation.replies import FailedReply
from omnifed.federation.tasks import FitTask
from omnifed.models.base import SiteSpec
from omnifed.models.registry import build_student
from omnifed.models.spec import StudentSpec
from omnifed.models.weights import to_state
from omnifed.states import State
from omnifed.training.spec import TrainSpec
from omnifed.transport.apps import server_app
from omnifed.transport.flower_compat import Grid
from omnifed.transport.patience import DEPLOYED
from omnifed.transport.pool import TaskPool

TICKS = os.sysconf("SC_CLK_TCK")


def cpu_of(roots: list[int]) -> float:
    """CPU seconds of processes and all that they have started, ended ones included."""
    tree: dict[int, list[int]] = {}
    times: dict[int, float] = {}
    for entry in Path("/proc").iterdir():
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if entry.name.isdigit():
            tree.setdefault(int(fields[1]), []).append(int(entry.name))
            times[int(entry.name)] = sum(map(int, fields[11:15])) / TICKS
    total, todo = 0.0, list(roots)
    while todo:
        pid = todo.pop()
        total += times.get(pid, 0.0)
        todo += tree.get(pid, [])
    return total


def one_tensor(state: State) -> State:
    return {"all": np.concatenate([value.ravel() for value in state.values() if value.dtype == np.float32])}


def main(grid: Grid) -> None:
    folder = Path(os.environ["OMNIFED_BENCH"])
    settings = json.loads((folder / "settings.json").read_text())
    pool = TaskPool(grid, patience=replace(DEPLOYED, join_s=0.0))
    site = next(iter(pool.wait_for([settings["site"]], 1, 60.0)))
    spec = StudentSpec.parse("omnisegnet:compact")
    model = build_student(spec, SiteSpec(settings["channels"], settings["classes"]), seed=0)
    state = to_state(model)
    train = TrainSpec(steps=1, total_steps=1, batch_size=2, precision="fp32")
    task = FitTask(id="bench.fit", round=0, student=spec, train=train)
    result: dict[str, object] = {"tensors": len(state), "parameters": sum(value.size for value in state.values())}
    list(pool.run({site: (task, state)}))  # the work, once
    cpu = settings["cpu_of"]
    runs: dict[str, list[tuple[float, float]]] = {"many": [], "one": []}
    for _ in range(settings["repeats"]):
        for name, sent in (("many", state), ("one", one_tensor(state))):
            before, started = cpu_of(cpu), time.perf_counter()
            (arrival,) = pool.run({site: (task, sent)})
            if isinstance(arrival.reply, FailedReply):
                raise RuntimeError(arrival.reply.code)
            wall = time.perf_counter() - started
            time.sleep(1.5)  # the SuperNode's own bookkeeping after a reply belongs to the task
            runs[name].append((wall, cpu_of(cpu) - before))
    before, started = cpu_of(cpu), time.perf_counter()
    time.sleep(10)
    result |= {"runs": runs, "idle_cpu_per_s": (cpu_of(cpu) - before) / (time.perf_counter() - started)}
    (folder / "result.json").write_text(json.dumps(result))


app = server_app(main)
