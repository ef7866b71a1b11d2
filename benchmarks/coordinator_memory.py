"""Does a coordinator's memory grow with its rounds or its sites? RSS of one that runs real rounds over trivial sites.

    python benchmarks/coordinator_memory.py
    python benchmarks/coordinator_memory.py --rounds 40 --every 10 --sites 6 20     a look at whether it runs

Each count of sites is a process of its own. Rounds go through the same TaskPool, run_arm, ledger and mean as on a
deployed federation; a site adds a number to the 1.5 M parameters that it gets, which costs next to nothing, so an hour
holds as many rounds as the coordinator can do. The slope is that of a line through the samples, without the first, in
which buffers find their size.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

MIB = 1 << 20


class Adder:
    """A site that adds 1e-3 to everything."""

    def __init__(self, site: str) -> None:
        self.site = site

    def execute(self, task: Any, state: dict[str, np.ndarray]) -> tuple[Any, dict[str, np.ndarray]]:
        from omnifed.federation.replies import FitReply, HelloReply
        from omnifed.federation.tasks import HelloTask

        if isinstance(task, HelloTask):
            return HelloReply(
                id=task.id, site=self.site, version="0", channels=1, classes=2, labels=("background", "lesion"),
                modality="ct", image_size=(32, 32), train=8, val=1, test=1,
            ), {}  # fmt: skip
        upload = {key: value + value.dtype.type(1e-3) for key, value in state.items()}
        reply = FitReply(id=task.id, site=self.site, n=8, steps=1, loss={"supervised": 1.0}, dice=0.5, adopted=True)
        return reply, upload


def rss_mib() -> float:
    """Resident memory now, without what is free but not yet given back: that comes and goes by megabytes."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # only glibc has it
        ctypes.CDLL(None).malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / MIB


def coordinate(sites: int, rounds: int, every: int) -> dict[str, Any]:
    """Runs an arm in this process and samples its memory after each ``every`` rounds."""
    from omnifed.events import EventLog
    from omnifed.models.spec import StudentSpec
    from omnifed.training.spec import TrainSpec
    from omnifed.transport.apps import client_app
    from omnifed.transport.inprocess import InProcessGrid
    from omnifed.transport.patience import Pace
    from omnifed.transport.pool import TaskPool
    from omnifed_server.rounds import ArmConfig, run_arm

    names = tuple(f"site{number:03d}" for number in range(sites))
    samples: list[tuple[int, float, float]] = []
    student = StudentSpec.parse("omnisegnet:alpha=0.8,beta=0.5,stem_stride=2")
    with tempfile.TemporaryDirectory() as folder:
        events = EventLog(Path(folder) / "events.jsonl")
        started = time.monotonic()

        def on_event(name: str, fields: dict[str, Any]) -> None:
            events.add(name, fields)
            if name == "aggregate" and (fields["round"] + 1) % every == 0:
                samples.append((fields["round"] + 1, time.monotonic() - started, rss_mib()))

        pool = TaskPool(
            InProcessGrid(client_app(Adder), names),
            pace=Pace(),
            on_site=lambda site, state, fields: events.add("site", {"site": site, "state": state, **fields}),
        )
        config = ArmConfig(
            campaign="memory", name="fedavg", sites=names, student=student, train=TrainSpec(steps=1), rounds=rounds
        )
        run_arm(pool, config, Path(folder) / "arm", on_event=on_event)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"sites": sites, "rounds": rounds, "samples": samples, "peak_mib": peak}


def slopes(samples: list[tuple[int, float, float]]) -> dict[str, float]:
    """MiB a round and an hour."""
    done, seconds, mib = np.array(samples[1:]).T
    return {"mib_per_round": np.polyfit(done, mib, 1)[0], "mib_per_hour": np.polyfit(seconds / 3600, mib, 1)[0]}


def measure(known: argparse.Namespace) -> dict[str, Any]:
    """The long run with the first count of sites, then short ones with the others."""
    results = []
    for sites in known.sites:
        long = sites == known.sites[0]
        rounds, every = (known.rounds, known.every) if long else (known.short, 1)
        command = [sys.executable, __file__, "--one", str(sites), "--rounds", str(rounds), "--every", str(every)]
        out = subprocess.run(
            command, check=True, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
        )
        result = json.loads(out.stdout)
        results.append(result | (slopes(result["samples"]) if long else {}))
    return {"machine": platform.processor() or platform.machine(), "runs": results}


def show(found: dict[str, Any], minute: float) -> None:
    """Prints the figures."""
    first, *others = found["runs"]
    for done, seconds, mib in first["samples"]:
        print(f"{first['sites']} sites, round {done:4d}: {mib:7.1f} MiB after {seconds:.0f} s")
    rate = first["mib_per_round"]
    print(f"slope: {rate * 1024:.1f} KiB a round; {first['mib_per_hour']:.2f} MiB an hour of nothing but rounds;")
    print(f"       {rate * 3600 / minute:.3f} MiB an hour of rounds of {minute:g} s")
    for run in (first, *others):
        end = run["samples"][-1][2]
        print(f"{run['sites']:4d} sites: peak {run['peak_mib']:.0f} MiB, after the last round {end:.0f} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sites", type=int, nargs="+", default=[6, 50, 200], help="the first count gets the long run")
    parser.add_argument("--rounds", type=int, default=200, help="of the long run")
    parser.add_argument("--every", type=int, default=20, help="rounds between two samples of the long run")
    parser.add_argument("--short", type=int, default=3, help="rounds of the other runs")
    parser.add_argument("--round-s", type=float, default=60.0, help="length of a real round, for the slope an hour")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    known = parser.parse_args()
    if known.one:
        print(json.dumps(coordinate(known.one, known.rounds, known.every)))
        return
    found = measure(known)
    show(found, known.round_s)
    if known.json:
        known.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
