"""How much does a search for students find? Hypervolume and regret on the made family of six sites.

    python benchmarks/architecture_search.py [--seeds 5] [--first-seed 0] [--long] [--rungs 1] [--json]

Hypervolume is that of all networks tried, each with its true Dice (long training, mean over the sites), over the
logarithm of latency, relative to the enumerated optimum; the reference point is a tenth of the front's range of Dice
below its fastest network, at the latency of its slowest. Regret is what the recommended network loses in Dice points
against the best within the budget. An evaluation is one trial at one site, anchors and promoted networks included; six
sites work at once. Stock NSGA-II is pymoo's own, over alpha and beta, with the raw scores of whichever site was free,
trained long; it recommends what scored best.
Target at 40 evaluations: hypervolume at least 0.95 and regret at most 0.2 points, ahead of random and of stock NSGA-II
in every seed; an ask at most 10 s at 100 observations; nothing is compiled at run time.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.problem import Problem

from omnifed.devices.measurement import Estimate
from omnifed.models.scaling import architecture_key
from omnifed.models.spec import StudentSpec
from omnifed.search.architecture import ArchitectureSearch
from omnifed.search.front import front, hypervolume
from omnifed.search.space import Network, enumerate_space
from omnifed.search.spec import ArchitectureSpec, Target
from omnifed.search.trials import History, Observation, make_trial
from omnifed_sim.architecture_surrogate import SITE, SITES, SIZE, ArchitectureSurrogate, latency_ms

BASE = StudentSpec()
HYPERVOLUME, REGRET, ASK_S = 0.95, 0.2, 10.0
POPULATION = 20
METHODS = ("surrogate", "nsga2", "random")


class World:
    """The space with its true Dice and latency."""

    def __init__(self) -> None:
        self.networks: tuple[Network, ...] = enumerate_space(ArchitectureSpec(), BASE, SITE, SIZE)
        self.index = {network.key: i for i, network in enumerate(self.networks)}
        self.ms = np.array([latency_ms(network.student) for network in self.networks])
        self.dice = np.array([ArchitectureSurrogate().mean(network.student) for network in self.networks])
        self.budget = float(self.ms.max())
        best = front(self.dice, self.ms)
        ends = self.dice[best[0]] - 0.1 * np.ptp(self.dice[best]), np.log(self.ms[best[-1]])
        self.worst = float(ends[0]), float(ends[1])
        self.all = self.area(range(len(self.networks)))

    def area(self, tried: Sequence[int]) -> float:
        at = sorted(set(tried))
        return hypervolume(self.dice[at], np.log(self.ms[at]), self.worst)

    def regret(self, key: str) -> float:
        return float(self.dice.max() - self.dice[self.index[key]])

    def estimates(self) -> dict[str, Estimate]:
        return {
            network.key: Estimate(p50_ms=ms / 1.1, p95_ms=ms, peak_mib=100.0, evidence="modelled")
            for network, ms in zip(self.networks, self.ms.tolist(), strict=True)
        }


@dataclass(frozen=True)
class Score:
    hypervolume: float
    regret: float


def search(world: World, seed: int, method: str, rungs: int) -> ArchitectureSearch:
    spec = ArchitectureSpec.model_validate({"method": method, "seed": seed, "rungs": rungs})
    target = Target(name="made", latency_ms=world.budget, sites=SITES)
    return ArchitectureSearch("benchmark", spec, BASE, world.networks, {"made": world.estimates()}, [target], SITES)


def ours(world: World, seed: int, method: str, marks: Sequence[int], rungs: int) -> dict[int, Score]:
    searcher, surrogate, history = search(world, seed, method, rungs), ArchitectureSurrogate(seed), History()
    scores = {}
    while len(history.told) < max(marks):
        done = len(history.told)
        until = min(mark for mark in marks if mark > done)
        trials = searcher.ask(history, SITES[: until - done])
        told = tuple(surrogate.observe(trial) for trial in trials)
        history = replace(history, told=history.told + told, asked=history.asked + len(trials))
        if len(history.told) in marks:
            tried = [world.index[seen.trial.key] for seen in history.told]
            found = searcher.result(history, stopped="", cost=0.0, image_size=SIZE)
            scores[until] = Score(world.area(tried) / world.all, world.regret(found.devices[0].chosen))
    return scores


def stock(world: World, seed: int, marks: Sequence[int], rungs: int) -> dict[int, Score]:
    """pymoo's NSGA-II as it comes, at the highest fidelity of the others."""
    surrogate, told = ArchitectureSurrogate(seed), list[Observation]()
    problem = Problem(n_var=2, n_obj=2, xl=np.array([0.6, 0.5]), xu=np.array([1.5, 2.0]))
    algorithm = NSGA2(pop_size=POPULATION)
    algorithm.setup(problem, termination=("n_gen", 1000), seed=seed)
    scores = {}
    while len(told) < max(marks):
        population = algorithm.ask()
        figures = []
        for alpha, beta in population.get("X"):
            student = StudentSpec(alpha=float(alpha), beta=float(beta))
            key, number = architecture_key(student), len(told)
            trial = make_trial(
                "stock", key, SITES[number % len(SITES)], steps=60, fraction=0.2, student=student, why="random",
                repeat=number,
            )  # fmt: skip
            told.append(surrogate.observe(trial))
            figures.append([-told[-1].dice, latency_ms(student)])
            if len(told) in marks:
                best = max(told, key=lambda one: one.dice).trial.key
                tried = [world.index[one.trial.key] for one in told]
                scores[len(told)] = Score(world.area(tried) / world.all, world.regret(best))
        population.set("F", np.array(figures))
        algorithm.tell(infills=population)
    return scores


def ask_seconds(world: World, observations: int = 100) -> float:
    """Seconds of an ask for six free sites after a search of so many observations, methods' default."""
    surrogate, searcher = ArchitectureSurrogate(), search(world, 0, "surrogate", 2)
    rng = np.random.default_rng(0)
    trials = [searcher.trial(searcher.anchor, site, 20, "anchor") for site in SITES]
    chosen = rng.choice(len(world.networks), observations - len(SITES), replace=False).tolist()
    trials += [searcher.trial(at, SITES[n % 6], 60 if n % 4 == 0 else 20, "model") for n, at in enumerate(chosen)]
    history = History(told=tuple(surrogate.observe(trial) for trial in trials), asked=observations)
    began = time.perf_counter()
    searcher.ask(history, SITES)
    return time.perf_counter() - began


def compiled() -> list[str]:
    """What shows that something was compiled: numba, or torch's extension builder at work."""
    found = [name for name in ("numba", "torch.utils.cpp_extension") if name in sys.modules]
    folder = os.path.expanduser("~/.cache/torch_extensions")
    return found + ([folder] if os.path.isdir(folder) else [])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--rungs", type=int, default=2)
    parser.add_argument("--arms", default="surrogate,nsga2,random,stock")
    parser.add_argument("--long", action="store_true", help="120 evaluations as well")
    parser.add_argument("--json", action="store_true")
    known = parser.parse_args()
    marks, world = (40, 120) if known.long else (40,), World()
    arms: dict[str, Callable[[int], dict[int, Score]]] = {
        **{m: lambda seed, m=m: ours(world, seed, m, marks, known.rungs) for m in METHODS},
        "stock": lambda seed: stock(world, seed, marks, known.rungs),
    }
    seeds = range(known.first_seed, known.first_seed + known.seeds)
    rows = {arm: [arms[arm](seed) for seed in seeds] for arm in known.arms.split(",")}
    seconds = ask_seconds(world)
    if known.json:
        figures = {arm: [{m: vars(s) for m, s in one.items()} for one in row] for arm, row in rows.items()}
        print(json.dumps({"machine": platform.platform(), "arms": figures, "ask_seconds": seconds}, indent=1))
        return
    print(f"{len(world.networks)} networks, seeds {seeds[0]}..{seeds[-1]}, rungs {known.rungs}, {platform.platform()}")
    for mark in marks:
        print(f"\nafter {mark} evaluations: hypervolume by seed (mean), regret in Dice points by seed (mean)")
        for arm, row in rows.items():
            areas, lost = [one[mark].hypervolume for one in row], [one[mark].regret for one in row]
            text = " ".join(f"{v:.3f}" for v in areas), " ".join(f"{v:.2f}" for v in lost)
            print(f"{arm:10} {text[0]} ({np.mean(areas):.3f})   {text[1]} ({np.mean(lost):.2f})")
    print(f"\ntargets: {HYPERVOLUME} and {REGRET} points at 40, ahead of random and stock in every seed")
    print(
        f"an ask for six sites at 100 observations: {seconds:.1f} s (target {ASK_S:.0f}); "
        f"compiled: {compiled() or 'no'}"
    )


if __name__ == "__main__":
    main()
