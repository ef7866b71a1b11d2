"""What the federation costs beside the work: `python benchmarks/federation_overhead.py [--json]`.

Time: the same rounds of the same real work (a compact student, two small steps a site and round), once as a bare loop
that trains and averages in memory, once as an arm over the in-process grid with messages, checks and a checkpoint after
each reply; interleaved in one process, CPU seconds, median of the ratios. Target: at most 1.2.

Memory: peak of a fresh process for 6 training sites (target: 800 MiB), and for 10, 50 and 200 sites without training,
where the peak must stay flat: the mean holds one sum, however many sites.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from omnifed.federation.aggregation import weight
from omnifed.federation.partition import start
from omnifed.federation.replies import FitReply, HelloReply
from omnifed.federation.tasks import HelloTask
from omnifed.models.base import SiteSpec, partition
from omnifed.models.registry import build_student
from omnifed.models.spec import StudentSpec
from omnifed.models.weights import load_state, to_state
from omnifed.training.spec import TrainSpec
from omnifed.transport.apps import client_app
from omnifed.transport.inprocess import InProcessGrid
from omnifed.transport.pool import TaskPool
from omnifed_server.rounds import ArmConfig, run_arm

STUDENT, SPEC, LOCAL = StudentSpec.parse("omnisegnet:compact"), SiteSpec(1, 2), ("stem", "head", "norm")
STEPS, SIZE, BATCH = 2, 64, 4


class Site:
    """Trains the student for a few steps on images of its own; `work` is what both sides do."""

    def __init__(self, name: str, trains: bool = True) -> None:
        self.name, self.trains, self.n = name, trains, 10
        if trains:
            self.model = build_student(STUDENT, SPEC)
            self.sides = partition(self.model.layer_groups(), LOCAL)
            draw = torch.Generator().manual_seed(int(name[1:]))
            self.x = torch.randn(BATCH, 1, SIZE, SIZE, generator=draw)
            self.y = torch.randint(0, 2, (BATCH, SIZE, SIZE), generator=draw)

    def work(self, state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        if not self.trains:
            return {key: value + 1 for key, value in state.items()}
        load_state(self.model, state)
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3)
        for _ in range(STEPS):
            optimizer.zero_grad()
            functional.cross_entropy(self.model(self.x).logits, self.y).backward()
            optimizer.step()
        return {key: value for key, value in to_state(self.model).items() if self.sides[key] == "global"}

    def execute(self, task, state):
        if isinstance(task, HelloTask):
            return HelloReply(
                id=task.id, site=self.name, version="0", channels=1, classes=2, labels=("a", "b"), modality="ct",
                image_size=(SIZE, SIZE), train=self.n, val=1, test=1,
            ), {}  # fmt: skip
        upload = self.work(state)
        reply = FitReply(id=task.id, site=self.name, n=self.n, steps=STEPS, loss={}, dice=0.5, adopted=True)
        return reply, upload


def bare(names: list[str], rounds: int) -> None:
    """Train, sum, divide: the least that averaging can cost."""
    state, _ = start(STUDENT, SPEC, LOCAL, 0)
    sites = [Site(name) for name in names]
    for _ in range(rounds):
        sums = {key: np.zeros(value.shape) for key, value in state.items() if value.dtype.kind == "f"}
        total = 0.0
        for site in sites:
            share, sent = weight(site.n, "sqrt"), site.work(state)
            for key, value in sums.items():
                value += share * sent[key]
            total += share
        state = {**sent, **{key: (value / total).astype(np.float32) for key, value in sums.items()}}


def federation(names: list[str], rounds: int, trains: bool = True) -> None:
    """The same through messages, checks and checkpoints."""
    config = ArmConfig(
        campaign="bench", name="bench", sites=tuple(names), student=STUDENT, train=TrainSpec(steps=STEPS),
        rounds=rounds, local_layers=LOCAL, channels=1,
    )  # fmt: skip
    pool = TaskPool(InProcessGrid(client_app(lambda name: Site(name, trains)), names))
    with tempfile.TemporaryDirectory() as folder:
        run_arm(pool, config, Path(folder))


def sites(count: int) -> list[str]:
    return [f"s{i}" for i in range(count)]


def timed(side, *arguments) -> tuple[float, float]:
    cpu, wall = time.process_time(), time.perf_counter()
    side(*arguments)
    return time.process_time() - cpu, time.perf_counter() - wall


def peak_mib(count: int, trains: bool) -> tuple[float, float]:
    """Peak resident MiB of a fresh process, after its imports and at its end."""
    # VmHWM, as ru_maxrss of a child starts from what its parent held.
    code = (
        "from pathlib import Path; import federation_overhead as b; "
        "peak = lambda: int(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0]) / 1024; "
        f"before = peak(); b.federation(b.sites({count}), 2, {trains}); print(before, peak())"
    )
    env = dict(os.environ, OMP_NUM_THREADS="1")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, env=env, check=True, capture_output=True, text=True
    )
    before, after = map(float, done.stdout.split())
    return before, after


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    bare(sites(1), 1)  # the first optimiser imports half of torch
    federation(sites(1), 1)
    runs = []
    for _ in range(options.repeats):
        runs.append((timed(bare, sites(6), options.rounds), timed(federation, sites(6), options.rounds)))
    memory = {f"{count} sites": peak_mib(count, trains=False) for count in (10, 50, 200)}
    training = peak_mib(6, trains=True)
    result = {
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} CPUs, one thread",
        "sites": 6,
        "rounds": options.rounds,
        "bare_cpu_s": statistics.median(a[0] for a, _ in runs),
        "federation_cpu_s": statistics.median(b[0] for _, b in runs),
        "cpu_ratio": statistics.median(b[0] / a[0] for a, b in runs),
        "wall_ratio": statistics.median(b[1] / a[1] for a, b in runs),
        "six_training_sites_peak_mib": training[1],
        "imports_mib": training[0],
        "idle_sites_peak_mib": {name: after for name, (_, after) in memory.items()},
    }
    if options.json:
        print(json.dumps(result, indent=1))
        return
    print(f"{result['machine']}; 6 sites, {options.rounds} rounds of {STEPS} steps, median of {options.repeats}")
    print(f"bare loop {result['bare_cpu_s']:.2f} CPU s, federation {result['federation_cpu_s']:.2f} CPU s")
    print(f"ratio {result['cpu_ratio']:.2f} of CPU time (target 1.2), {result['wall_ratio']:.2f} of wall time")
    print(f"6 training sites: peak {training[1]:.0f} MiB, of which imports {training[0]:.0f} (target 800)")
    for name, (_, after) in memory.items():
        print(f"{name} without training: peak {after:.0f} MiB")


if __name__ == "__main__":
    main()
