"""Does averaging pay, and does OmniKD pay on top of it? Paired by case, three seeds, 95 % intervals by patient.

    python benchmarks/arms.py --preset hospitals --hold-out west
    python benchmarks/arms.py --data DATA --split isic:4 --hold-out isic-4

Each seed is one `omnifed-sim` with all arms on one thread; ``--jobs`` of them run side by side. All arms of a seed see
the same sites, splits and steps. A patient who is in the test sets of several seeds is one cluster of the bootstrap.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from omnifed.evaluation.score import MEAN
from omnifed.evaluation.statistics import paired_difference
from omnifed.evaluation.tables import TEACHER, read_cases

PAIRS = [("fedavg", "local"), ("fedbn", "local"), ("omnikd", "fedbn"), ("omnikd", "local"), ("central", "fedbn")]
SALT = b"omnifed benchmark"
"""One salt for all runs, so that a patient has one key in all of them."""
Scores = dict[tuple[str, str], dict[tuple[int, str], tuple[float, str]]]


def simulate(options: list[str], seed: int, out: Path) -> Path:
    """Runs one seed, or goes on with it; returns the run folder."""
    run = out / f"seed-{seed}"
    run.mkdir(parents=True, exist_ok=True)
    (run / ".salt").write_bytes(SALT)
    if (run / "report.html").is_file():
        return run
    command = [str(Path(sys.executable).parent / "omnifed-sim"), "--out", str(run)]
    command += ["--resume"] if (run / "config.json").is_file() else ["--seed", str(seed), *options]
    with (out / f"seed-{seed}.log").open("a") as log:
        subprocess.run(command, check=True, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return run


def read(runs: list[Path]) -> Scores:
    """(arm, site) to the mean Dice and patient of each (seed, case)."""
    scores: Scores = defaultdict(dict)
    for seed, run in enumerate(runs):
        for row in read_cases(run / "cases.csv"):
            if row.label == MEAN and row.metric == "dice":
                scores[row.arm, row.site][seed, row.case] = (row.value, row.patient)
    return scores


def compare(scores: Scores, sites: list[str], arm: str, other: str) -> dict[str, float] | None:
    """Mean paired difference of Dice, in points of 100, over the cases of ``sites``."""
    a, b, groups = [], [], []
    for site in sites:
        first, second = scores.get((arm, site), {}), scores.get((other, site), {})
        for key in sorted(set(first) & set(second)):
            a.append(first[key][0])
            b.append(second[key][0])
            groups.append(f"{site.rpartition('-')[0]}/{first[key][1]}")
    if not a:
        return None
    found = paired_difference(np.array(a), np.array(b), groups)
    return {"points": 100 * found.mean, "low": 100 * found.low, "high": 100 * found.high, "p": found.p, "cases": len(a)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/bench-arms"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=max(1, (os.cpu_count() or 2)))
    parser.add_argument("--arms", default="local,fedavg,fedbn,omnikd,central")
    parser.add_argument("--json", action="store_true")
    known, options = parser.parse_known_args()
    known.out.mkdir(parents=True, exist_ok=True)
    options = [*options, "--arms", known.arms]
    with ThreadPoolExecutor(known.jobs) as pool:
        runs = list(pool.map(lambda seed: simulate(options, seed, known.out), range(known.seeds)))
    scores = read(runs)
    held_out = [s["name"] for s in json.loads((runs[0] / "sites.json").read_text()) if s["held_out"]]
    sites = sorted({site for _, site in scores} - set(held_out))
    arms = [*known.arms.split(","), *([TEACHER] if any(arm == TEACHER for arm, _ in scores) else [])]
    table = {
        site: {arm: float(np.mean([v for v, _ in scores[arm, site].values()])) for arm in arms if (arm, site) in scores}
        for site in [*sites, *held_out]
    }
    pairs = {
        f"{arm} - {other}": {
            "trained sites": compare(scores, sites, arm, other),
            "held out": compare(scores, held_out, arm, other),
        }
        | {site: compare(scores, [site], arm, other) for site in sites}
        for arm, other in PAIRS
        if arm in arms and other in arms
    }
    if known.json:
        print(json.dumps({"machine": platform.platform(), "dice": table, "differences": pairs}, indent=1))
        return
    print(f"Mean Dice of the test cases, {known.seeds} seeds, {platform.platform()}\n")
    print(f"{'site':24}" + "".join(f"{arm:>10}" for arm in arms))
    for site, row in table.items():
        print(f"{site:24}" + "".join(f"{row[arm]:10.3f}" if arm in row else f"{'-':>10}" for arm in arms))
    print("\nPaired difference in Dice points, 95 % interval by patient, p by sign flips")
    for name, where in pairs.items():
        for site, d in where.items():
            if d:
                interval = f"[{d['low']:+.2f}, {d['high']:+.2f}]"
                print(f"{name:20}{site:16}{d['points']:+7.2f}  {interval:18} p {d['p']:.3f}  n {d['cases']}")


if __name__ == "__main__":
    main()
