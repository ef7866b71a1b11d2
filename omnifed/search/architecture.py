"""The search for students: which network to try next, at which site, for how long."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np

from omnifed.devices.measurement import Estimate
from omnifed.models.spec import StudentSpec
from omnifed.search.asked import Asked, corrected
from omnifed.search.budgets import Device
from omnifed.search.dice_model import DiceModel, check
from omnifed.search.front import front, gains
from omnifed.search.full import FullTrials, spread
from omnifed.search.gp import reproducible
from omnifed.search.operators import SpaceProblem, offspring, search_front
from omnifed.search.recommend import architecture_result
from omnifed.search.results import ArchitectureResult
from omnifed.search.space import Network, Space
from omnifed.search.spec import ArchitectureSpec, Target
from omnifed.search.trials import History, Observation, Trial, Why, make_trial

START = 5
"""Networks beside the anchor, spread over depth and width, before the model is asked."""
FIRST = 6
"""Networks drawn at random before NSGA-II breeds."""


class ArchitectureSearch:
    """Asks which network to try; a :class:`~omnifed.search.trials.Searcher`.

    Each site starts with the anchor, the network of alpha = beta = 1, so that sites can be compared. Then a network
    goes to the next rung as soon as ``eta`` times as many have been scored on its own (asynchronous successive halving,
    Li et al., MLSys 2020), the best on the front first; else a new one is tried. By the method ``surrogate`` that is
    what NSGA-II finds on a draw of the Gaussian process of Dice with exact costs (Thompson sampling; Bradford et al.,
    J. Global Optimization 2018), by ``nsga2`` a child of the networks tried, by ``random`` any. Networks that no target
    can afford are never tried, but the anchor.

    Args:
        study: name of the study; part of the trials' ids.
        spec: how to search; its budget is the caller's business.
        base: the campaign's student; its options are the anchor's.
        networks: the space.
        estimates: by target's name, then by architecture key.
        targets: classes of devices, with their budgets; at least one.
        sites: registered names of the sites that take part.
        full_steps: of a training in full.

    Raises:
        OmniFedError: OF740 for a budget that no network meets, OF741 for no networks.
    """

    def __init__(
        self,
        study: str,
        spec: ArchitectureSpec,
        base: StudentSpec,
        networks: Sequence[Network],
        estimates: Mapping[str, Mapping[str, Estimate]],
        targets: Sequence[Target],
        sites: Sequence[str],
        full_steps: int = 0,
    ) -> None:
        self.study, self.spec, self.sites, self.full_steps = study, spec, tuple(sites), full_steps
        self.space = Space(networks)
        self.devices = tuple(Device(target, self.space, estimates[target.name]) for target in targets)
        self.usable = np.any([device.fits for device in self.devices], axis=0)
        self.anchor = self.space.nearest(base.model_copy(update={"alpha": 1.0, "beta": 1.0}))
        self.rungs = tuple(spec.steps * spec.eta**rung for rung in range(spec.rungs))

    def ask(self, history: History, sites: Sequence[str]) -> list[Trial]:
        """One trial for each free site; see :class:`~omnifed.search.trials.Searcher`.

        Raises:
            OmniFedError: OF742 for an observation that is not finite.
        """
        if history.told:
            check(history.told)
        trials: list[Trial] = []
        known = _Known(self, history)
        with reproducible([self.spec.seed, history.asked]):
            for site in sites:
                asked = Asked(history, trials, self.space, self.rungs, self.spec.fraction)
                trials += _Question(self, known, asked, site, history.asked + len(trials)).trial()
        return trials

    def full(self, history: History) -> FullTrials:
        """Asks for ``spec.full`` trainings in full, of networks spread over the fronts; one each, at any site.

        The networks follow from the brief trials alone, so they stay the same while the full ones come back.
        """
        brief = tuple(seen for seen in history.told if seen.trial.why != "full")
        with reproducible([self.spec.seed]):
            chosen = spread(self, self.model(brief), brief, self.spec.full) if brief else []
        return FullTrials(self, chosen)

    def result(self, history: History, *, stopped: str, cost: float, image_size: tuple[int, int]) -> ArchitectureResult:
        """What was found.

        Args:
            history: all that was asked and told.
            stopped: why it ended.
            cost: work of the search relative to training the balanced student once.
            image_size: at which costs and latencies hold.

        Raises:
            OmniFedError: OF742 for an observation that is not finite, OF743 if nothing was told.
        """
        with reproducible([self.spec.seed]):
            return architecture_result(self, history, stopped=stopped, cost=cost, image_size=image_size)

    def model(self, told: Sequence[Observation]) -> DiceModel:
        """The process of Dice after some observations."""
        return DiceModel(told, self.space, self.sites, (self.rungs[0], self.rungs[-1]))

    def trial(self, at: int, site: str, steps: int, why: Why, fraction: float | None = None) -> Trial:
        """A trial of the network at a position."""
        network = self.space.networks[at]
        return make_trial(
            self.study,
            network.key,
            site,
            steps=steps,
            fraction=fraction or self.spec.fraction,
            student=network.student,
            why=why,
        )


class _Known:
    """What the observations say, worked out once a question and only if it is needed."""

    def __init__(self, search: ArchitectureSearch, history: History) -> None:
        self.search, self.told = search, history.told

    @cached_property
    def model(self) -> DiceModel:
        return self.search.model(self.told)

    @cached_property
    def scores(self) -> np.ndarray:
        """(N,) Dice points: expected, or as seen less the effects of site and steps, NaN where nothing was seen."""
        if self.search.spec.method == "surrogate":
            return self.model.posterior()[0]
        return corrected(self.told, self.search.space)


class _Question:
    """What to ask of one free site."""

    def __init__(self, search: ArchitectureSearch, known: _Known, asked: Asked, site: str, number: int) -> None:
        self.search, self.known, self.asked, self.site = search, known, asked, site
        self.space, self.rungs = search.space, search.rungs
        self.rng = np.random.default_rng([search.spec.seed, number])
        turn = number % len(search.devices)
        self.devices = search.devices[turn:] + search.devices[:turn]

    def trial(self) -> list[Trial]:
        """At most one."""
        anchor = self.search.anchor
        if self.site not in self.asked.asked[0].get(anchor, ()) and not self.asked.failed(anchor, self.site):
            return [self.search.trial(anchor, self.site, self.rungs[0], "anchor")]
        if self.known.told:
            for rung in reversed(range(len(self.rungs) - 1)):
                at = self._promoted(rung)
                if at is not None:
                    return [self.search.trial(at, self.site, self.rungs[rung + 1], "promoted")]
        unseen = [at for at in np.flatnonzero(self.search.usable).tolist() if at not in self.asked.seen]
        new = np.array([at for at in unseen if not self.asked.failed(at, self.site)], dtype=int)
        found = self._new(new) if len(new) else self._again()
        return [self.search.trial(found[0], self.site, self.rungs[0], found[1])] if found else []

    def _promoted(self, rung: int) -> int | None:
        """The best network of a rung that lies on the rung's front, if it is the next rung's turn."""
        scored = np.array(sorted(self.asked.told[rung]), dtype=int)
        up = self.asked.asked[rung + 1]
        if len(up) >= len(scored) // self.search.spec.eta:
            return None
        scores = self.known.scores
        if self.search.spec.method == "surrogate":
            # By a draw: brief trials favour small networks, and the mean cannot learn by how much without long ones.
            scores = self.known.model.draw(self.rng)
        for device in self.devices:
            here = scored[device.fits[scored]]
            best = here[front(scores[here], device.latency[here])]
            for at in reversed(best):
                if at not in up and not self.asked.failed(int(at), self.site):
                    return int(at)
        return None

    def _new(self, new: np.ndarray) -> tuple[int, Why]:
        method, tried = self.search.spec.method, len(self.asked.seen - {self.search.anchor})
        if method == "surrogate" and (tried < START or not self.known.told):
            return self._farthest(new), "warm start"
        if method == "surrogate":
            return self._model(new), "model"
        child = self._child(new) if method == "nsga2" and tried >= FIRST else None
        return (int(self.rng.choice(new)), "random") if child is None else (child, "model")

    def _farthest(self, new: np.ndarray) -> int:
        """The network that is least like those asked for."""
        features = self.space.features
        have = features[sorted(self.asked.seen | {self.search.anchor})]
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
            for at in np.flatnonzero(self.search.usable).tolist()
            if self.site not in done.get(at, ()) and not self.asked.failed(at, self.site)
        ]
        if not left or not self.known.told:
            return None
        scores = np.nan_to_num(self.known.scores, nan=-np.inf)
        return min(left, key=lambda at: (len(done.get(at, ())), -scores[at], at)), "model"
