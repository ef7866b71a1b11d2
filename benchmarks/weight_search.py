"""How good are the weights that a search finds for OmniKD? Mean regret on the made family of six sites, in Dice points.

    python benchmarks/weight_search.py [--seeds 3] [--long] [--json]

Regret is what a site loses, without noise, with the weights that the search recommends for it against its optimum.
Plain: the optima are Table 3's; shifted: each lies 0.8 away from there. The rivals: Table 3's mean without any search,
random points (the best observed is recommended), the same search for each site alone, and ours. A site that joins late
comes when five others have done 12 trials each.
Target: ours at most 1.5 points after 12 evaluations a site, plain and shifted, and at least twice as good as random; an
ask at most 10 s at 100 observations.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from omnifed.distill.spec import LAMBDA, TERMS, TermName
from omnifed.models.spec import StudentSpec
from omnifed.search.lambda_model import named
from omnifed.search.spec import WeightSpec
from omnifed.search.trials import History, Trial, make_trial, weights_key
from omnifed.search.weights import WeightSearch
from omnifed_sim.weight_surrogate import SITES, WeightSurrogate

Weights = dict[TermName, float]
Recommend = Callable[[WeightSurrogate, int, Sequence[int]], dict[int, dict[str, Weights]]]
STUDENT = StudentSpec()
REGRET, RATIO, ASK_S = 1.5, 2.0, 10.0


def searching(sites: Sequence[str], seed: int) -> WeightSearch:
    return WeightSearch("benchmark", WeightSpec(seed=seed), STUDENT, sites)


def round_of(searcher: WeightSearch, surrogate: WeightSurrogate, history: History, sites: Sequence[str]) -> History:
    """One trial more at each site."""
    trials = searcher.ask(history, sites)
    told = tuple(surrogate.observe(trial) for trial in trials)
    return replace(history, told=history.told + told, asked=history.asked + len(trials))


def found(searcher: WeightSearch, history: History) -> dict[str, Weights]:
    return {row.site: row.weights for row in searcher.result(history, stopped="benchmark").sites}


def published(surrogate: WeightSurrogate, seed: int, marks: Sequence[int]) -> dict[int, dict[str, Weights]]:
    return {mark: dict.fromkeys(SITES, LAMBDA["universal"]) for mark in marks}


def trial(site: str, weights: Weights) -> Trial:
    key = weights_key(weights)
    return make_trial(
        "random", key, site, steps=40, fraction=0.2, student=STUDENT, why="random", weights=weights
    )  # fmt: skip


def random(surrogate: WeightSurrogate, seed: int, marks: Sequence[int]) -> dict[int, dict[str, Weights]]:
    """Uniform over the box; the best observed is recommended."""
    best: dict[int, dict[str, Weights]] = {mark: {} for mark in marks}
    for index, site in enumerate(SITES):
        points = np.random.default_rng([seed, index]).uniform(0, 3, (max(marks), len(TERMS)))
        told = [surrogate.observe(trial(site, named(point))) for point in points]
        for mark in marks:
            best[mark][site] = max(told[:mark], key=lambda one: one.dice).trial.weights or {}
    return best


def alone(surrogate: WeightSurrogate, seed: int, marks: Sequence[int]) -> dict[int, dict[str, Weights]]:
    """Our search for each site, which knows nothing of the others."""
    each = {site: ours(surrogate, seed, marks, (site,)) for site in SITES}
    return {mark: {site: each[site][mark][site] for site in SITES} for mark in marks}


def ours(
    surrogate: WeightSurrogate, seed: int, marks: Sequence[int], sites: Sequence[str] = SITES
) -> dict[int, dict[str, Weights]]:
    searcher, history, best = searching(sites, seed), History(), {}
    for evaluations in range(1, max(marks) + 1):
        history = round_of(searcher, surrogate, history, sites)
        if evaluations in marks:
            best[evaluations] = found(searcher, history)
    return best


ARMS: dict[str, Recommend] = {"table 3's mean": published, "random": random, "alone": alone, "ours": ours}


def late(surrogate: WeightSurrogate, seed: int, marks: Sequence[int] = (10, 16)) -> dict[int, float]:
    """Regret of a site that joins when the five others have done 12 trials each."""
    site = SITES[seed % len(SITES)]
    others = [other for other in SITES if other != site]
    searcher, history = searching(SITES, seed), History()
    for _ in range(12):
        history = round_of(searcher, surrogate, history, others)
    regret = {}
    for evaluations in range(1, max(marks) + 1):
        history = round_of(searcher, surrogate, history, [site])
        if evaluations in marks:
            regret[evaluations] = surrogate.regret(site, found(searcher, history)[site])
    return regret


def ask_seconds(observations: int = 100) -> float:
    """Median seconds of an ask for one free site that is past its first points."""
    surrogate, searcher = WeightSurrogate(), searching(SITES, 0)
    trials = [trial(site, weights) for weights in searcher.start for site in SITES]
    points = np.random.default_rng(0).uniform(0, 3, (observations - len(trials), len(TERMS)))
    trials += [trial(SITES[number % len(SITES)], named(point)) for number, point in enumerate(points)]
    history = History(told=tuple(surrogate.observe(one) for one in trials), asked=observations)
    seconds = []
    for site in SITES[:3]:
        began = time.perf_counter()
        searcher.ask(history, [site])
        seconds.append(time.perf_counter() - began)
    return float(np.median(seconds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--long", action="store_true", help="24 evaluations a site as well")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    marks = (12, 24) if options.long else (12,)
    results: dict[str, dict[str, list[float]]] = {}
    for name, shifted in [("plain", False), ("shifted", True)]:
        for arm in options.arms.split(","):
            for mark in marks:
                results.setdefault(f"{name}, {mark}", {})[arm] = []
            for seed in range(options.seeds):
                surrogate = WeightSurrogate(shifted=shifted, seed=seed)
                for mark, weights in ARMS[arm](surrogate, seed, marks).items():
                    regret = float(np.mean([surrogate.regret(site, weights[site]) for site in SITES]))
                    results[f"{name}, {mark}"][arm].append(regret)
    joined = {
        name: [late(WeightSurrogate(shifted=shifted, seed=seed), seed) for seed in range(options.seeds)]
        for name, shifted in [("plain", False), ("shifted", True)]
    }
    seconds = ask_seconds()
    if options.json:
        figures = {"regret": results, "late": joined, "ask_seconds": seconds}
        print(json.dumps({"machine": platform.platform(), **figures}, indent=1))
        return
    print(f"Mean regret in Dice points, {options.seeds} seeds, {platform.platform()}\n")
    print(f"{'optima, evaluations':24}" + "".join(f"{arm:>18}" for arm in options.arms.split(",")))
    for name, row in results.items():
        print(f"{name:24}" + "".join(f"{np.mean(v):10.2f} ± {np.std(v):5.2f}" for v in row.values()))
    for name, row in results.items():
        if name.endswith(", 12") and {"random", "ours"} <= set(row):
            regret, ratio = np.mean(row["ours"]), np.mean(row["random"]) / np.mean(row["ours"])
            print(f"{name}: ours {regret:.2f} (target {REGRET}), random {ratio:.1f} x as much (target {RATIO:.0f})")
    for name, seeds in joined.items():
        text = ", ".join(f"{np.mean([one[mark] for one in seeds]):.2f} after {mark}" for mark in (10, 16))
        print(f"joins late, {name:12}{text}")
    print(f"an ask at 100 observations: {seconds:.1f} s (target {ASK_S:.0f})")


if __name__ == "__main__":
    main()
