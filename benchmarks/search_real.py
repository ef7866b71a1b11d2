"""A whole architecture search, and what it found against the paper's variants at equal latency.

    python benchmarks/search_real.py --out runs/bench-search                      # phantoms
    python benchmarks/search_real.py --data DATA --sites isic,intraop,cxr_lungs --out runs/bench-search-real

One search with three targets: as fast as compact, as balanced, as accurate on this machine. Then six trainings in full
(fedbn, all patients): the three students found and the three variants; test Dice, paired by case.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from arms import SALT, Scores, compare, read, simulate

from omnifed.models.spec import PRESETS
from omnifed.search.results import ArchitectureResult

SIM = str(Path(sys.executable).parent / "omnifed-sim")
ARM = "fedbn"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/bench-search"))
    parser.add_argument("--preset", default="hospitals")
    parser.add_argument("--data", type=Path, help="folder of real sites instead of a preset")
    parser.add_argument("--sites", default="", help="names, comma-separated; all by default")
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument("--options", default="stem_stride=2", help="of all students")
    parser.add_argument(
        "--profile", default="measured", help="of the device; `measured` is this machine, if it is idle"
    )
    parser.add_argument("--budget", default="24")
    parser.add_argument("--steps", type=int, default=20, help="of a brief trial")
    parser.add_argument("--full", type=int, default=0, help="networks trained in full for Kendall's tau")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--round-steps", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    known = parser.parse_args()
    known.out.mkdir(parents=True, exist_ok=True)
    found, minutes = search(known)
    about = {
        "machine": platform.platform(),
        "trials": found.trials,
        "cost": found.cost,
        "full_cost": found.full_cost,
        "minutes": minutes,
    }
    tau = found.agreement.model_dump() if found.agreement else None
    report = {**about, "tau": tau, "rows": rows(known, found)}
    if known.json:
        print(json.dumps(report, indent=1))
    else:
        say(found, report)


def sites_of(known: argparse.Namespace, seed: int) -> Path:
    """The sites of a seed, made once for all runs."""
    if known.data:
        return Path(known.data)
    folder = known.out / f"sites-{seed}"
    if not folder.is_dir():
        size = ["--seed", str(seed), "--image-size", str(known.image_size)]
        command = [SIM, "phantoms", str(folder), "--preset", known.preset, *size]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return folder


def options(known: argparse.Namespace, seed: int) -> list[str]:
    names = ["--sites", known.sites] if known.sites else []
    return ["--data", str(sites_of(known, seed)), *names, "--image-size", str(known.image_size)]


def search(known: argparse.Namespace) -> tuple[ArchitectureResult, float]:
    out, file = known.out / "search", known.out / "search.toml"
    file.write_text(f"rounds = {known.rounds}\nsteps = {known.round_steps}\n")
    devices = [part for name in PRESETS for part in ("--device", f"{known.profile}={name}")]
    own = ["--budget", known.budget, "--steps", str(known.steps), "--full", str(known.full), "--config", str(file)]
    student = ["--student", f"omnisegnet:compact,{known.options}"]
    again = ["--resume"] if (out / "config.json").is_file() else [*devices, *own, *options(known, 0), *student]
    started = time.perf_counter()
    command = [SIM, "search", "architecture", "--out", str(out), *again]
    subprocess.run(command, check=True, stdout=sys.stderr, env={**os.environ, "OMP_NUM_THREADS": "1"})
    result = ArchitectureResult.model_validate_json((out / "search" / "architecture.json").read_bytes())
    return result, (time.perf_counter() - started) / 60


def train(known: argparse.Namespace, name: str, student: str, seed: int) -> Path:
    data, folder = sites_of(known, seed), known.out / name
    for site in sorted(path for path in data.iterdir() if path.is_dir()):
        store = folder / f"seed-{seed}" / "sites" / site.name / "data"
        if not known.sites or site.name in known.sites.split(","):
            store.mkdir(parents=True, exist_ok=True)
            (store / ".salt").write_bytes(SALT)  # a case has one name in all runs
    steps = ["--rounds", str(known.rounds), "--steps", str(known.round_steps)]
    return simulate([*options(known, seed), "--arms", ARM, *steps, "--student", student], seed, folder)


def rows(known: argparse.Namespace, found: ArchitectureResult) -> list[dict[str, Any]]:
    """One a variant: what was found at its latency, both trained in full."""
    students = {network.key: network.student for network in found.networks}
    result = []
    for name, (alpha, beta) in PRESETS.items():
        device = next(device for device in found.devices if device.name.endswith(f"-{name}"))
        chosen, variant = students[device.chosen], next(v for v in device.variants if v.name == name)
        member = next(member for member in device.front if member.key == device.chosen)
        scores: Scores = {}
        for who, (a, b) in {"found": (chosen.alpha, chosen.beta), "variant": (alpha, beta)}.items():
            folder = name if who == "variant" else f"found-{name}"
            spec = f"omnisegnet:alpha={a},beta={b},{known.options}"
            runs = [train(known, folder, spec, seed) for seed in range(known.seeds)]
            scores |= {(who, site): cases for (arm, site), cases in read(runs).items() if arm == ARM}
        sites = sorted({site for _, site in scores})
        dice = {
            who: float(np.mean([value for site in sites for value, _ in scores[who, site].values()]))
            for who in ("found", "variant")
        }
        about = {"alpha": chosen.alpha, "beta": chosen.beta, "p95_ms": member.p95_ms, "dice": dice["found"]}
        result.append(
            {
                "variant": name,
                "p95_ms": variant.p95_ms,
                "dice": dice["variant"],
                "found": about,
                "difference": compare(scores, sites, "found", "variant"),
            }
        )
    return result


def say(found: ArchitectureResult, report: dict[str, Any]) -> None:
    print(f"{report['machine']}, one thread: {report['trials']} trials, {report['minutes']:.1f} min,", end=" ")
    print(f"{report['cost']:.2f} x training balanced once, and {report['full_cost']:.2f} x for the check in full")
    if report["tau"]:
        print(f"Kendall's tau, brief against long: {report['tau']}")
    networks = {network.key: network for network in found.networks}
    for device in found.devices:
        print(f"\nFront of {device.name} (budget {device.latency_ms:.2f} ms): {device.reason}")
        for member in device.front:
            network = networks[member.key]
            size = f"alpha {network.student.alpha:.2f} beta {network.student.beta:.3f} {network.params / 1e6:5.2f} M"
            dice = f"Dice {network.dice:.3f} +- {network.sd:.3f}, {network.trials} trials"
            print(f"  {size} {member.p95_ms:7.2f} ms  {dice}")
    print("\nTrained in full, mean test Dice; differences paired by case, 95 % interval by patient")
    for row in report["rows"]:
        mine, d = row["found"], row["difference"]
        print(f"{row['variant']:9}{row['p95_ms']:7.2f} ms  Dice {row['dice']:.3f}", end="   found ")
        print(
            f"alpha {mine['alpha']:.2f} beta {mine['beta']:.3f} {mine['p95_ms']:7.2f} ms  Dice {mine['dice']:.3f}",
            end=" ",
        )
        print(f"  {d['points']:+.2f} points [{d['low']:+.2f}, {d['high']:+.2f}], n {d['cases']}")


if __name__ == "__main__":
    main()
