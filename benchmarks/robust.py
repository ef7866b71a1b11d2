"""What can one of six sites do to the average? Real updates of a short federated training, one replaced by an attack.

    python benchmarks/robust.py
    python benchmarks/robust.py --sites unlike --phantom-scale 1
    python benchmarks/robust.py --seeds 1 --rounds 2 --steps 5      a look at whether it runs

`like` sites are one phantom hospital cut into six by patient; `unlike` ones are the six modalities, whose updates point
elsewhere and differ in length: there a robust rule errs without any attack. Each seed is one federated training in
process (one thread, no attack): what each site held and sent is kept for every round. Then each site in turn is taken
for the attacker, its update replaced, and the round combined again by each rule. The error is the distance of the
outcome from the mean of the honest updates, relative to that mean's length; figures are medians over seeds, rounds and
attackers, the largest in brackets. `mean, checked` is the mean with the update validation that is always on.

Target: norm-clip at most 0.3 against a site that sends 100 times its update; NaN and infinity refused each time.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from omnifed.errors import OmniFedError
from omnifed.federation.aggregation import StreamingMean, Update, mean_of, weight
from omnifed.federation.replies import FitReply, Reply
from omnifed.federation.robust import clipped_mean, median
from omnifed.federation.tasks import FitTask, Task
from omnifed.federation.validation import FAR, too_long, update_norm
from omnifed.privacy.spec import AggregationSpec
from omnifed.states import State
from omnifed.transport.apps import client_app
from omnifed.transport.inprocess import InProcessGrid
from omnifed.transport.pool import TaskPool
from omnifed_client.executor import SiteExecutor
from omnifed_server.stages import Stages
from omnifed_sim.campaign import plan_of
from omnifed_sim.config import SimConfig
from omnifed_sim.console import Screen
from omnifed_sim.sites import prepare_sites, site_folders

TARGET = 0.3
SITES = 6
PRESETS = {"like": "hospitals", "unlike": "modalities"}
Rule = Callable[[State, dict[str, State], dict[str, float]], State]


@dataclass
class Round:
    """What the sites held, and by site what each sent and how it weighs."""

    held: State = field(default_factory=dict)
    sent: dict[str, State] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)


def attacks(own: State, held: State, other: State) -> dict[str, State]:
    """What an attacker may send instead of its own update."""

    def times(factor: float) -> State:
        return {k: (held[k] + factor * (v - held[k])).astype(v.dtype) for k, v in own.items()}

    return {"none": own, "x100": times(100), "sign flip": times(-1), "zero": held, "duplicate": other}


def updates(sent: dict[str, State], weights: dict[str, float]) -> list[Update]:
    return [Update(lambda s=state: s, weights[site]) for site, state in sent.items()]


def checked(held: State, sent: dict[str, State], weights: dict[str, float]) -> State:
    """The mean without the updates that are too long."""
    out = too_long({site: update_norm(state, held) for site, state in sent.items()}, AggregationSpec())
    return mean_of(held, updates({s: v for s, v in sent.items() if s not in out}, weights))


RULES: dict[str, Rule] = {
    "mean": lambda held, sent, weights: mean_of(held, updates(sent, weights)),
    "mean, checked": checked,
    "norm-clip": lambda held, sent, weights: clipped_mean(held, updates(sent, weights)),
    "median": lambda held, sent, weights: median(held, updates(sent, weights)),
}


def train(known: argparse.Namespace, seed: int, folder: Path) -> list[Round]:
    """The rounds of one training, each as the sites saw it."""
    made = SimConfig(
        preset=PRESETS[known.sites], seed=seed, phantom_scale=known.phantom_scale, image_size=known.image_size
    )
    config = made.model_copy(update={"arms": (known.arm,), "rounds": known.rounds, "steps": known.steps})
    if known.sites == "like":
        first = site_folders(made, folder / "whole")[0]
        cut = {"data": str(first.parent), "split": f"{first.name}:{SITES}"}
        config = SimConfig.model_validate({**config.model_dump(), **cut})
    sites = prepare_sites(site_folders(config, folder), config, folder, Screen().progress_of)
    rounds = [Round() for _ in range(config.rounds)]

    class Watched:
        def __init__(self, site: str) -> None:
            self.site, self.real = site, SiteExecutor(sites[site], folder / "sites" / site / "state")

        def execute(self, task: Task, state: State) -> tuple[Reply, State]:
            reply, upload = self.real.execute(task, state)
            if isinstance(task, FitTask) and isinstance(reply, FitReply):
                kept = rounds[task.round]
                kept.held, kept.sent[self.site] = dict(state), dict(upload)
                kept.weights[self.site] = weight(reply.n, config.weighting)
            return reply, upload

    pool = TaskPool(InProcessGrid(client_app(Watched), list(sites)))
    stages = Stages(plan_of(config, tuple(sites), "fp32"), pool, folder, lambda name, fields: None)
    stages.prepare()
    stages.train(known.arm, ())
    return rounds


def errors(of: Round) -> dict[tuple[str, str], list[float]]:
    """(attack, rule) to the relative error with each site in turn as the attacker."""
    truth = mean_of(of.held, updates(of.sent, of.weights))
    length = update_norm(truth, of.held)
    found: dict[tuple[str, str], list[float]] = {}
    for site, own in of.sent.items():
        other = next(state for name, state in of.sent.items() if name != site)
        for attack, bad in attacks(own, of.held, other).items():
            for name, rule in RULES.items():
                outcome = rule(of.held, {**of.sent, site: bad}, of.weights)
                found.setdefault((attack, name), []).append(update_norm(outcome, truth) / length)
    return found


def refused(of: Round) -> tuple[int, int]:
    """How many of the attempts to send NaN or infinity in one weight were refused, and of how many."""
    tries = hits = 0
    for state in of.sent.values():
        for value in (np.nan, np.inf, -np.inf):
            for key in (k for k, v in state.items() if v.dtype.kind == "f"):
                bad = state[key].copy()
                bad.reshape(-1)[-1] = value
                tries += 1
                try:
                    StreamingMean(of.held).check({**state, key: bad})
                except OmniFedError as error:
                    hits += error.code == "OF505"
    return hits, tries


def longest(of: Round) -> float:
    """Of the honest updates the longest one, as a multiple of the median of the others; validation allows FAR."""
    norms = [update_norm(state, of.held) for state in of.sent.values()]
    return max(n / statistics.median(norms[:i] + norms[i + 1 :]) for i, n in enumerate(norms))


def measure(known: argparse.Namespace) -> dict[str, Any]:
    found: dict[tuple[str, str], list[float]] = {}
    counts, ratios, norms = [0, 0], [], []
    for seed in range(known.seeds):
        with tempfile.TemporaryDirectory() as folder:
            for of in train(known, seed, Path(folder)):
                for key, values in errors(of).items():
                    found.setdefault(key, []).extend(values)
                counts = [a + b for a, b in zip(counts, refused(of), strict=True)]
                ratios.append(longest(of))
                norms += [update_norm(state, of.held) for state in of.sent.values()]
    table: dict[str, dict[str, dict[str, float]]] = {}
    for (attack, rule), values in found.items():
        table.setdefault(attack, {})[rule] = {"median": statistics.median(values), "largest": max(values)}
    return {
        "errors": table,
        "refused": {"NaN and infinity": counts[0], "of": counts[1]},
        "longest honest": max(ratios),
        "norms": [min(norms), max(norms)],
        "within target": table["x100"]["norm-clip"]["median"] <= TARGET and counts[0] == counts[1],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sites", default="like", choices=sorted(PRESETS))
    parser.add_argument("--arm", default="fedbn", choices=["fedavg", "fedprox", "fedbn"])
    parser.add_argument("--phantom-scale", type=float, default=2.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--json", action="store_true")
    known = parser.parse_args()
    result = measure(known)
    if known.json:
        print(json.dumps({"machine": platform.platform(), **result}, indent=1))
        return
    asked = f"{known.seeds} seeds, {known.rounds} rounds of {known.steps} steps, {known.image_size} px"
    print(f"{known.arm} on {SITES} {known.sites} sites, {asked}, {platform.platform()}\n")
    print(f"{'attack':12}" + "".join(f"{rule:>22}" for rule in RULES))
    for attack, row in result["errors"].items():
        cells = [f"{row[rule]['median']:.3f} [{row[rule]['largest']:.3f}]" for rule in RULES]
        print(f"{attack:12}" + "".join(f"{cell:>22}" for cell in cells))
    hits, tries = result["refused"].values()
    low, high = result["norms"]
    print(f"\nNaN or infinity in one weight: {hits} of {tries} refused")
    print(f"longest honest update: {result['longest honest']:.2f} times the median of the others; {FAR:g} are allowed")
    print(f"L2 norms of honest updates: {low:.2f} to {high:.2f}")
    verdict = "met" if result["within target"] else "MISSED"
    print(f"target {verdict}: norm-clip at most {TARGET} against x100, NaN and infinity refused each time")


if __name__ == "__main__":
    main()
