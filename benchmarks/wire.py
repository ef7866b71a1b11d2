"""What does it cost to send less? FedBN with each wire: bytes, and Dice paired by case, 95 % intervals by patient.

    python benchmarks/wire.py
    python benchmarks/wire.py --rounds 2 --steps 5 --image-size 64 --seeds 1      a look at whether it runs

Each seed is one `omnifed-sim` a wire on one thread, with the same sites, splits, first weights and steps.

Training is chaotic: a small change of the first weights ends in another model. `rounded once` is the control: fp32 from
first weights that were rounded to bfloat16, and nothing else. A coding costs something only as far as it differs from
fp32 by more than that does.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from arms import SALT, Scores, compare, read, simulate

from omnifed.federation.partition import start as first_weights
from omnifed.federation.wire import encode
from omnifed.models.base import LayerGroup, SiteSpec
from omnifed.states import write_state
from omnifed_sim.config import SimConfig

CONTROL = "rounded once"
WIRES = ("fp32", CONTROL, "bf16", "int8-delta")
ARM = "fedbn"


def phantoms(known: argparse.Namespace, seed: int) -> Path:
    """The sites of a seed, made once for all wires."""
    folder = known.out / f"sites-{seed}"
    command = [str(Path(sys.executable).parent / "omnifed-sim"), "phantoms", str(folder), "--preset", known.preset]
    command += ["--seed", str(seed), "--image-size", str(known.image_size)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return folder


def salted(run: Path, data: Path) -> None:
    """One salt for the case ids of all runs, so that a case has one name in all of them."""
    for site in sorted(path for path in data.iterdir() if path.is_dir()):
        folder = run / "sites" / site.name / "data"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".salt").write_bytes(SALT)


def round_once(run: Path, seed: int) -> None:
    """Gives a run the first weights of its seed rounded to bfloat16."""
    start = run / "arms" / ARM / "start.safetensors"
    if start.is_file():
        return
    keep: tuple[LayerGroup, ...] = ("norm",)
    state, _ = first_weights(SimConfig().student, SiteSpec(channels=1, classes=5), keep, seed)
    write_state(start, encode(state, "bf16").held, {"round": -1})


def traffic(run: Path) -> dict[str, int]:
    """Bytes of all rounds of a run, up and down."""
    records = [json.loads(path.read_text()) for path in sorted((run / "arms" / ARM).glob("round-*.json"))]
    return {way: sum(record[way] for record in records) for way in ("bytes_up", "bytes_down")}


def scores_of(runs: dict[tuple[str, int], Path]) -> Scores:
    """(wire, site) to the mean Dice and patient of each (seed, case)."""
    scores: Scores = {}
    for wire in WIRES:
        found = read([run for (name, _), run in sorted(runs.items()) if name == wire])
        scores |= {(wire, site): cases for (arm, site), cases in found.items() if arm == ARM}
    return scores


def measure(known: argparse.Namespace, options: list[str]) -> dict[str, Any]:
    """Runs all, and compares each wire with fp32."""
    wanted = [(wire, seed) for seed in range(known.seeds) for wire in WIRES]
    data = [phantoms(known, seed) for seed in range(known.seeds)]

    def run(which: tuple[str, int]) -> Path:
        wire, seed = which
        folder = known.out / wire.replace(" ", "-")
        salted(folder / f"seed-{seed}", data[seed])
        if wire == CONTROL:
            round_once(folder / f"seed-{seed}", seed)
        coding = "fp32" if wire == CONTROL else wire
        return simulate([*options, "--data", str(data[seed]), "--wire", coding], seed, folder)

    with ThreadPoolExecutor(known.jobs) as pool:
        runs = dict(zip(wanted, pool.map(run, wanted), strict=True))
    scores = scores_of(runs)
    sites = sorted({site for _, site in scores})
    rows = {}
    for wire in WIRES:
        sums = {way: sum(traffic(runs[wire, s])[way] for s in range(known.seeds)) for way in ("bytes_up", "bytes_down")}
        dice = np.mean([value for site in sites for value, _ in scores[wire, site].values()])
        rows[wire] = {**sums, "dice": float(dice), "difference": compare(scores, sites, wire, "fp32")}
    for row in rows.values():
        row["ratio"] = (row["bytes_up"] + row["bytes_down"]) / (rows["fp32"]["bytes_up"] + rows["fp32"]["bytes_down"])
    by_site = {wire: {site: compare(scores, [site], wire, "fp32") for site in sites} for wire in WIRES[1:]}
    return {"wires": rows, "by site": by_site}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/bench-wire"))
    parser.add_argument("--preset", default="hospitals")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=max(1, (os.cpu_count() or 2)))
    parser.add_argument("--json", action="store_true")
    known = parser.parse_args()
    options = ["--arms", ARM, "--rounds", str(known.rounds), "--steps", str(known.steps)]
    result = measure(known, [*options, "--image-size", str(known.image_size)])
    if known.json:
        print(json.dumps({"machine": platform.platform(), **result}, indent=1))
        return
    asked = f"{known.seeds} seeds, {known.rounds} rounds of {known.steps} steps, {known.image_size} px"
    print(f"{ARM} on the preset {known.preset}, {asked}, {platform.platform()}\n")
    print(f"{'wire':14}{'MB up':>10}{'MB down':>10}{'ratio':>8}{'Dice':>8}   difference to fp32 in Dice points, 95 %")
    for wire, row in result["wires"].items():
        d = row["difference"]
        text = f"{d['points']:+.2f} [{d['low']:+.2f}, {d['high']:+.2f}]  p {d['p']:.3f}  n {d['cases']}"
        up, down = row["bytes_up"] / 1e6, row["bytes_down"] / 1e6
        print(f"{wire:14}{up:10.2f}{down:10.2f}{row['ratio']:8.3f}{row['dice']:8.3f}   {text}")
    print()
    for wire, sites in result["by site"].items():
        for site, d in sites.items():
            print(f"{wire:14}{site:16}{d['points']:+7.2f}  [{d['low']:+.2f}, {d['high']:+.2f}]  n {d['cases']}")


if __name__ == "__main__":
    main()
