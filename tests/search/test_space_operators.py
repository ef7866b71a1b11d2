"""Crossover and mutation stay in the space, and no network comes twice."""

from __future__ import annotations

import numpy as np
from pymoo.core.population import Population
from small_space import networks

from omnifed.search.front import hypervolume
from omnifed.search.operators import KeyDuplicates, SpaceProblem, offspring, search_front
from omnifed.search.space import Space

SPACE = Space(networks(stem_strides=(1, 2), alpha=(0.6, 1.0), beta=(0.5, 1.0)))
N = len(SPACE)
MS = np.log([network.macs for network in SPACE.networks])
NONE = np.full((N, 1), -1.0)


def test_genomes_of_one_network_are_duplicates() -> None:
    near = SPACE.genomes[3] + [1e-6, 0, 0, 0]
    population = Population.new("X", np.stack([SPACE.genomes[3], near, SPACE.genomes[9]]))
    kept = KeyDuplicates(SPACE).do(population)
    assert [SPACE.position(x) for x in kept.get("X")] == [3, 9]
    assert len(KeyDuplicates(SPACE, {3}).do(population)) == 1


def test_the_front_is_found_within_the_budget_and_again_alike() -> None:
    dice = SPACE.features @ [1.0, 2.0, -3.0, 0.0]
    over = (MS - np.median(MS))[:, None]
    found = search_front(SPACE, dice, MS, over, np.random.default_rng(1))
    assert (over[found] <= 0).all()
    best = np.flatnonzero(over[:, 0] <= 0)
    worst = dice[best].min() - 1, MS[best].max() + 1
    whole, part = (hypervolume(dice[at], MS[at], worst) for at in (best, found))
    assert 0.9 * whole < part <= whole
    assert found.tolist() == search_front(SPACE, dice, MS, over, np.random.default_rng(1)).tolist()


def test_a_child_is_new_and_comes_of_good_parents() -> None:
    dice, tried = SPACE.features[:, 1], np.arange(0, N, 4)
    problem = SpaceProblem(SPACE, dice, MS, NONE)
    children = {offspring(SPACE, problem, tried, set(tried.tolist()), np.random.default_rng(i)) for i in range(6)}
    assert None not in children
    assert not children & set(tried.tolist())
    assert len(children) > 1
    assert offspring(SPACE, problem, tried, set(range(N)), np.random.default_rng(0)) is None
