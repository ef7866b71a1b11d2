"""Does a latency model of ten measured networks predict the others? Do published figures agree with each other?

    python benchmarks/latency_model.py
    python benchmarks/latency_model.py --student omnisegnet:balanced --size 96 --held-out 10

Ten probes and the held-out networks are measured in one interleaved run of several passes, each time in a process of
its own; a network's figure is the median over the passes. The model is fitted on the probes alone. Beside it stands the
baseline that knows multiply-accumulates only, fitted on the same probes. The scatter of a network's passes around its
median is the noise floor: no model can be seen to do better.

Of each shipped device, each published network is predicted from the others by a fixed time and a rate (from one other:
by its rate alone, which takes the fixed time for work).

Run it on an idle machine; networks are exported once, into --out.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from omnifed.devices.bench import bench
from omnifed.devices.latency import LatencyModel, fit_latency, probes
from omnifed.devices.machine import describe_machine
from omnifed.devices.measurement import MOST_VARIATION, Measurement
from omnifed.devices.measuring import write_probes
from omnifed.devices.profile import known_profiles
from omnifed.models.base import SiteSpec
from omnifed.models.scaling import architecture_key, costs
from omnifed.models.spec import StudentSpec

SITE = SiteSpec(1, 2)
NEAR = 0.10
Pairs = list[tuple[StudentSpec, Measurement]]


def held_out(options: StudentSpec, count: int, seed: int) -> list[StudentSpec]:
    """Networks of the family, drawn without replacement among all that are no probes."""
    grid = {
        architecture_key(student): student
        for n in range(6, 16)
        for beta in np.linspace(0.5, 2.0, 151).round(2).tolist()
        for student in [options.model_copy(update={"alpha": n / 10, "beta": beta})]
    }
    rest = sorted(set(grid) - {architecture_key(student) for student in probes(options)})
    return [grid[key] for key in np.random.default_rng([seed]).permutation(rest)[:count]]


def measure(students: Sequence[StudentSpec], known: argparse.Namespace) -> tuple[Pairs, float, float]:
    """Each student with the medians over the passes; the noise floor; the share of unsteady measurements."""
    paths = write_probes(known.out / "networks", students, SITE, known.size)
    passes: list[list[Measurement]] = [[] for _ in students]
    for _ in range(known.passes):
        for path, rows in zip(paths, passes, strict=True):
            seconds = (known.seconds, 5.0)
            rows.append(bench(path, engine=known.engine, threads=known.threads, seconds=seconds, accept_variation=True))
    pairs, scatter = [], []
    for student, rows in zip(students, passes, strict=True):
        middle = {key: median(getattr(row, key) for row in rows) for key in ("p50_ms", "p95_ms", "cpu_ms", "peak_mib")}
        pairs.append((student, rows[0].model_copy(update=middle)))
        scatter += [abs(row.p50_ms / middle["p50_ms"] - 1) for row in rows]
    unsteady = np.mean([row.variation > MOST_VARIATION for rows in passes for row in rows])
    return pairs, float(np.mean(scatter)), float(unsteady)


def errors(predicted: Sequence[float], pairs: Pairs, figure: str = "p50_ms") -> dict[str, float]:
    """Mean and largest relative error, and the share within 10 %."""
    off = np.abs(np.array(predicted) / np.array([getattr(m, figure) for _, m in pairs]) - 1)
    return {"mean": float(off.mean()), "most": float(off.max()), "within": float((off <= NEAR).mean())}


def by_model(model: LatencyModel, pairs: Pairs, figure: str) -> list[float]:
    return [getattr(model.predict(student, SITE, m.size), figure) for student, m in pairs]


def by_macs(fitted_on: Pairs, pairs: Pairs) -> list[float]:
    """One coefficient, of least relative squares."""
    ratio = np.array([costs(student, SITE, m.size).macs / m.p50_ms for student, m in fitted_on])
    slope = ratio.sum() / (ratio @ ratio)
    return [slope * costs(student, SITE, m.size).macs for student, m in pairs]


def published() -> list[dict[str, Any]]:
    """Each shipped device's published networks, predicted from the others of the same image size."""
    rows: list[dict[str, Any]] = []
    for profile in known_profiles():
        known = [(p.network, p.size, p.ms, p.gmac) for p in profile.published if p.ms and p.gmac and not p.note]
        for network, size, ms, gmac in known:
            others = [(g, m) for name, s, m, g in known if name != network and s == size]
            if others:
                predicted = float(line(*map(np.array, zip(*others, strict=True))) @ [1.0, gmac])
                row = {"published_ms": ms, "predicted_ms": predicted, "error": predicted / ms - 1}
                rows.append({"device": profile.name, "network": network, "others": len(others)} | row)
        for p in profile.published:
            if p.note:
                rows.append({"device": profile.name, "network": p.network, "does not apply": p.note})
        if not profile.published:
            rows.append({"device": profile.name, "network": "-", "does not apply": "nothing usable is published"})
    return rows


def line(gmac: np.ndarray, ms: np.ndarray) -> np.ndarray:
    """Fixed time and time a GMAC, of least relative squares; of one network the latter alone."""
    design = np.stack([np.ones_like(gmac), gmac], 1) / ms[:, None]
    if len(ms) == 1:
        return np.array([0.0, ms[0] / gmac[0]])
    return np.linalg.lstsq(design, np.ones_like(ms), rcond=None)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/bench-latency"))
    parser.add_argument("--student", default="omnisegnet:balanced,stem_stride=2", help="whose options are used")
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--held-out", type=int, default=20)
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.5, help="shortest measurement of a network and pass")
    parser.add_argument("--engine", choices=("ort", "openvino"), default="ort")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0, help="of the choice of held-out networks")
    parser.add_argument("--json", action="store_true")
    known = parser.parse_args()
    options = StudentSpec.parse(known.student)
    chosen = [*probes(options), *held_out(options, known.held_out, known.seed)]
    pairs, floor, unsteady = measure(chosen, known)
    fitted_on, others = pairs[: len(probes(options))], pairs[len(probes(options)) :]
    model = fit_latency(fitted_on, SITE)
    found = {
        "p50": errors(by_model(model, others, "p50_ms"), others),
        "p95": errors(by_model(model, others, "p95_ms"), others, "p95_ms"),
        "peak memory": errors(by_model(model, others, "peak_mib"), others, "peak_mib"),
        "p50 by multiply-accumulates alone": errors(by_macs(fitted_on, others), others),
    }
    facts = {
        "machine": describe_machine().text,
        "options": known.student,
        "size": known.size,
        "probes": len(fitted_on),
        "held_out": len(others),
        "range_ms": [min(m.p50_ms for _, m in pairs), max(m.p50_ms for _, m in pairs)],
        "noise_floor": floor,
        "unsteady": unsteady,
        "left_out_error": model.left_out_error,
        "errors": found,
        "published": published(),
    }
    if known.json:
        print(json.dumps(facts | {"model": model.model_dump(mode="json")}, indent=1))
        return
    print(f"{facts['machine']}; {known.engine}, {known.threads} thread(s); {known.student}, {known.size} pixels")
    print(f"{len(fitted_on)} probes, {len(others)} held-out networks of {facts['range_ms'][0]:.2f} to ", end="")
    print(f"{facts['range_ms'][1]:.2f} ms, {known.passes} passes; noise floor {floor:.1%}, unsteady {unsteady:.0%}\n")
    print(f"{'held-out networks':36}{'mean error':>12}{'largest':>10}{'within 10 %':>13}")
    for name, row in found.items():
        print(f"{name:36}{row['mean']:12.1%}{row['most']:10.1%}{row['within']:13.0%}")
    print(
        "goal: mean at most 10 %, at least 90 % within 10 %\n\nPublished networks, each from the others of its device"
    )
    for row in facts["published"]:
        if "error" in row:
            text = f"{row['published_ms']:.1f} ms, {row['predicted_ms']:.1f} from {row['others']}: {row['error']:+.0%}"
        else:
            text = f"does not apply: {row['does not apply']}"
        print(f"{row['device']:18}{row['network']:30}{text}")


if __name__ == "__main__":
    main()
