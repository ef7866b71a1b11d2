"""One question of the search for students: what to ask of one free site."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from omnifed.search.asked import Asked, corrected
from omnifed.search.budgets import Device
from omnifed.search.dice_model import DiceModel
from omnifed.search.front import front, gains
from omnifed.search.knowledge import knowledge_gradient
from omnifed.search.operators import SpaceProblem, offspring, search_front
from omnifed.search.problem import ArchitectureProblem
from omnifed.search.trials import History, Trial, Why

START = 5
"""Networks beside the anchor, spread over depth and width, before the model is asked."""
FIRST = 6
"""Networks drawn at random before NSGA-II breeds."""


class Known:
    """What the observations say, worked out once a question and only if it is needed."""

    def __init__(self, problem: ArchitectureProblem, history: History) -> None:
        self.problem, self.told = problem, history.told

    @cached_property
    def model(self) -> DiceModel:
        """The process of Dice."""
        return self.problem.model(self.told)

    @cached_property
    def posterior(self) -> tuple[np.ndarray, np.ndarray]:
        """As of :meth:`DiceModel.posterior`."""
        return self.model.posterior()

    @cached_property
    def scores(self) -> np.ndarray:
        """(N,) Dice points: expected, or as seen less the effects of site and steps, NaN where nothing was seen."""
        if self.problem.spec.method == "surrogate":
            return self.posterior[0]
        return corrected(self.told, self.problem.space)


class Question:
    """What to ask of one free site."""

    def __init__(self, problem: ArchitectureProblem, known: Known, asked: Asked, site: str, number: int) -> None:
        self.problem, self.known, self.asked, self.site = problem, known, asked, site
        self.space, self.rungs = problem.space, problem.rungs
        self.rng = np.random.default_rng([problem.spec.seed, number])
        turn = number % len(problem.devices)
        self.devices = problem.devices[turn:] + problem.devices[:turn]

    def trial(self) -> list[Trial]:
        """At most one."""
        anchor = self.problem.anchor
        if self.site not in self.asked.asked[0].get(anchor, ()) and not self.asked.failed(anchor, self.site):
            return [self.problem.trial(anchor, self.site, self.rungs[0], "anchor")]
        if self.known.told:
            for rung in reversed(range(len(self.rungs) - 1)):
                at = self._promoted(rung)
                if at is not None:
                    return [self.problem.trial(at, self.site, self.rungs[rung + 1], "promoted")]
        unseen = [at for at in np.flatnonzero(self.problem.usable).tolist() if at not in self.asked.seen]
        new = np.array([at for at in unseen if not self.asked.failed(at, self.site)], dtype=int)
        found = self._new(new) if len(new) else self._again()
        return [self.problem.trial(found[0], self.site, self.rungs[0], found[1])] if found else []

    def _promoted(self, rung: int) -> int | None:
        """A network of a rung for the next one, if it is the next rung's turn."""
        told, up = self.asked.told[rung], self.asked.asked[rung + 1]
        if _count(up) >= _count(told) // self.problem.spec.eta:
            return None
        for device in self.devices:
            here = np.array(
                [at for at in sorted(told) if device.fits[at] and not self.asked.failed(at, self.site)], int
            )
            if self.problem.spec.method == "surrogate":
                left = [at for at in here.tolist() if self.site not in up.get(at, ())]
                if left:
                    return left[int(self._worth(device, left, rung + 1).argmax())]
            else:
                best = here[front(self.known.scores[here], device.latency[here])]
                left = [at for at in best.tolist() if at not in up]
                if left:
                    return left[-1]
        return None

    def _worth(self, device: Device, trials: Sequence[int], rung: int) -> np.ndarray:
        """(k,) what trials of networks say about the best within a device's budget."""
        mean, covariance = self.known.posterior
        going = [at for at, sites in self.asked.going[rung].items() for _ in sites]
        return knowledge_gradient(mean, covariance, self.known.model.noise, np.flatnonzero(device.fits), going, trials)

    def _new(self, new: np.ndarray) -> tuple[int, Why]:
        method, tried = self.problem.spec.method, len(self.asked.seen - {self.problem.anchor})
        if method == "surrogate" and (tried < START or not self.known.told):
            return self._farthest(new), "warm start"
        if method == "surrogate":
            return self._model(new), "model"
        child = self._child(new) if method == "nsga2" and tried >= FIRST else None
        return (int(self.rng.choice(new)), "random") if child is None else (child, "model")

    def _farthest(self, new: np.ndarray) -> int:
        """The network that is least like those asked for."""
        features = self.space.features
        have = features[sorted(self.asked.seen | {self.problem.anchor})]
        away = ((features[new][:, None] - have) ** 2).sum(-1).min(1)
        return int(new[away.argmax()])

    def _model(self, new: np.ndarray) -> int:
        """Of the front that NSGA-II finds on a draw, the network that adds most to what was asked for already."""
        draw, device = self.known.model.draw(self.rng), self.devices[0]
        found = search_front(self.space, draw, device.latency, device.over, self.rng)
        new = new[device.fits[new]] if device.fits[new].any() else new
        fresh = np.intersect1d(found, new)
        have = np.array([at for at in sorted(self.asked.seen) if device.fits[at]], dtype=int)
        within = np.flatnonzero(device.fits)
        best = within[front(draw[within], device.latency[within])]
        worst = draw[best[0]] - 0.1 * np.ptp(draw[best]) - 1e-9, device.latency[best[-1]] + 1e-9
        for candidates in (fresh, new):
            if len(candidates):
                added = gains(draw, device.latency, have, candidates, worst)
                if added.max() > 0:
                    return int(candidates[added.argmax()])
        return int(new[draw[new].argmax()])

    def _child(self, new: np.ndarray) -> int | None:
        scores, device = self.known.scores, self.devices[0]
        tried = np.flatnonzero(np.isfinite(scores))
        if len(tried) < 2:
            return None
        problem = SpaceProblem(self.space, np.nan_to_num(scores), device.latency, device.over)
        return offspring(self.space, problem, tried, set(range(len(self.space))) - set(new.tolist()), self.rng)

    def _again(self) -> tuple[int, Why] | None:
        """With no new network left: one of the best that this site has not tried, those of fewest sites first."""
        done = self.asked.asked[0]
        left = [
            at
            for at in np.flatnonzero(self.problem.usable).tolist()
            if self.site not in done.get(at, ()) and not self.asked.failed(at, self.site)
        ]
        if not left or not self.known.told:
            return None
        scores = np.nan_to_num(self.known.scores, nan=-np.inf)
        return min(left, key=lambda at: (len(done.get(at, ())), -scores[at], at)), "model"


def _count(trials: dict[int, set[str]]) -> int:
    return sum(map(len, trials.values()))
