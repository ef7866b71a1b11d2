"""NSGA-II over the networks of a space: crossover and mutation in log alpha and log beta, each network once.

Deb et al., IEEE Transactions on Evolutionary Computation 2002; the scaling law is multiplicative, so halving and
doubling are steps of one length. A genome is (log alpha, log beta, stem, fusion); genomes that round to one network are
duplicates.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
from pymoo.algorithms.moo.nsga2 import NSGA2, RankAndCrowding
from pymoo.core.duplicate import DuplicateElimination
from pymoo.core.evaluator import Evaluator
from pymoo.core.population import Population
from pymoo.core.problem import Problem
from pymoo.operators.crossover.sbx import SBX
from pymoo.operators.mutation.pm import PM
from pymoo.optimize import minimize

from omnifed.search.space import Space

SIZES = 2
"""Genes of depth and width; the rest are options."""
POPULATION, GENERATIONS = 40, 20
TRIES = 5
"""Matings a generation, at most: parents that are much alike breed duplicates over and over."""
PARENTS = 20
"""Networks of which the steady-state form breeds."""
SPREAD = 10.0
"""Distribution index of crossover and mutation: a step that usually leaves the network's own cell."""


class LogCrossover(SBX):
    """Simulated binary crossover of the sizes; each option comes from either parent."""

    def __init__(self) -> None:
        super().__init__(eta=SPREAD, prob=0.9)

    def _do(self, problem: Any, X: np.ndarray, *args: Any, random_state: Any = None, **kwargs: Any) -> np.ndarray:
        children = super()._do(problem, X, *args, random_state=random_state, **kwargs)
        swapped = random_state.random(X.shape[1:])[:, SIZES:] < 0.5
        children[0, :, SIZES:] = np.where(swapped, X[1, :, SIZES:], X[0, :, SIZES:])
        children[1, :, SIZES:] = np.where(swapped, X[0, :, SIZES:], X[1, :, SIZES:])
        return children


class LogMutation(PM):
    """Polynomial mutation of the sizes; each option is drawn anew now and then."""

    def __init__(self) -> None:
        super().__init__(prob=1.0, prob_var=0.5, eta=SPREAD)

    def _do(self, problem: Any, X: np.ndarray, *args: Any, random_state: Any = None, **kwargs: Any) -> np.ndarray:
        children = super()._do(problem, X, *args, random_state=random_state, **kwargs)
        drawn = random_state.integers(0, problem.xu[SIZES:].astype(int) + 1, children[:, SIZES:].shape)
        anew = random_state.random(drawn.shape) < 0.2
        children[:, SIZES:] = np.where(anew, drawn, X[:, SIZES:])
        return children


class KeyDuplicates(DuplicateElimination):
    """Keeps one genome a network.

    Args:
        space: says which network a genome is.
        seen: positions of networks that count as duplicates from the start.
    """

    def __init__(self, space: Space, seen: Collection[int] = ()) -> None:
        super().__init__()
        self.space, self.seen = space, frozenset(seen)

    def _do(self, pop: Population, other: Population | None, is_duplicate: np.ndarray) -> np.ndarray:
        known = set(self.seen) | {self.space.position(x) for x in (other.get("X") if other is not None else ())}
        for i, x in enumerate(pop.get("X")):
            at = self.space.position(x)
            is_duplicate[i] |= at in known
            if other is None:
                known.add(at)
        return is_duplicate


class SpaceProblem(Problem):
    """Dice up, latency down, over budgets of latency and memory.

    Args:
        space: the networks.
        dice: (N,) of each.
        latency: (N,) of each.
        over: (N, k) constraints, met where at most 0.
    """

    def __init__(self, space: Space, dice: np.ndarray, latency: np.ndarray, over: np.ndarray) -> None:
        low, high = space.bounds
        super().__init__(n_var=len(low), n_obj=2, n_ieq_constr=over.shape[1], xl=low, xu=high)
        self.space, self.figures, self.over = space, np.stack([-dice, latency], 1), over

    def _evaluate(self, x: np.ndarray, out: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        at = [self.space.position(genome) for genome in x]
        out["F"], out["G"] = self.figures[at], self.over[at]


def _algorithm(space: Space, start: Any, size: int, offspring: int | None = None) -> NSGA2:
    return NSGA2(
        pop_size=size,
        n_offsprings=offspring,
        sampling=start,
        crossover=LogCrossover(),
        mutation=LogMutation(),
        eliminate_duplicates=KeyDuplicates(space),
    )


def search_front(
    space: Space, dice: np.ndarray, latency: np.ndarray, over: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """The front that NSGA-II finds.

    Args:
        space, dice, latency, over: as of :class:`SpaceProblem`.
        rng: of all draws.

    Returns:
        Positions of networks, by position; those that miss a constraint are left out.
    """
    size = min(POPULATION, max(1, len(space) // 2))
    start = space.genomes[rng.choice(len(space), size, replace=False)]
    problem = SpaceProblem(space, dice, latency, over)
    algorithm = _algorithm(space, start, size)
    algorithm.mating.n_max_iterations = TRIES
    found = minimize(problem, algorithm, ("n_gen", GENERATIONS), seed=int(rng.integers(2**31)))
    if found.opt is None:
        return np.array([], dtype=int)
    return np.unique([space.position(x) for x in found.opt.get("X")]).astype(int)


def offspring(
    space: Space,
    problem: SpaceProblem,
    tried: np.ndarray,
    seen: Collection[int],
    rng: np.random.Generator,
) -> int | None:
    """One new network of the steady-state form: survivors by rank and crowding, tournament, crossover, mutation.

    Args:
        space: the networks.
        problem: Dice of the tried ones as seen; of the others it is not read.
        tried: positions of networks with a score, at least two.
        seen: positions that must not come out.
        rng: of all draws.

    Returns:
        A position, or None if none was found that has not been seen.
    """
    population = Population.new("X", space.genomes[tried])
    Evaluator().eval(problem, population)
    population = RankAndCrowding().do(problem, population, n_survive=min(PARENTS, len(tried)), random_state=rng)
    algorithm = _algorithm(space, population, len(population), offspring=1)
    algorithm.setup(problem, seed=int(rng.integers(2**31)))
    algorithm.tell(infills=algorithm.ask())
    algorithm.mating.eliminate_duplicates = KeyDuplicates(space, seen)
    children = algorithm.ask()
    return space.position(children[0].X) if children is not None and len(children) else None
