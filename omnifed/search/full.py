"""A few trainings in full, which say whether brief trials can be trusted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from omnifed.search.dice_model import DiceModel
from omnifed.search.front import front
from omnifed.search.problem import ArchitectureProblem
from omnifed.search.trials import History, Observation, Trial


def spread(problem: ArchitectureProblem, model: DiceModel, told: Sequence[Observation], n: int) -> list[int]:
    """Positions of at most n networks that have a brief trial: by the fronts of the tried ones, spread over latency.

    Where the fronts have fewer, the other tried networks follow, the farthest in features first.
    """
    positions = {problem.space.index[seen.trial.key] for seen in told if seen.trial.key in problem.space.index}
    tried = np.array(sorted(positions), dtype=int)
    mean = model.posterior()[0]
    fronts = []
    for device in problem.devices:
        here = tried[device.fits[tried]]
        fronts += here[front(mean[here], device.latency[here])].tolist()
    members = sorted(set(fronts), key=lambda at: (problem.devices[0].latency[at], at))
    picks = np.linspace(0, len(members) - 1, n if members else 0).round().astype(int).tolist()
    chosen = [members[i] for i in dict.fromkeys(picks)]
    rest = [int(at) for at in tried if at not in chosen]
    while len(chosen) < n and rest:
        features = problem.space.features
        away = [min((((features[at] - features[one]) ** 2).sum() for one in chosen), default=0.0) for at in rest]
        chosen.append(rest.pop(int(np.argmax(away))))
    return chosen


class FullTrials:
    """Asks for one training in full of each of some networks; a :class:`~omnifed.search.trials.Searcher`.

    Args:
        problem: whose networks they are.
        networks: their positions.
    """

    def __init__(self, problem: ArchitectureProblem, networks: Sequence[int]) -> None:
        self.problem, self.networks = problem, tuple(networks)

    def ask(self, history: History, sites: Sequence[str]) -> list[Trial]:
        """The next networks without a training in full, at the free sites."""
        trials: list[Trial] = []
        done = [trial for trial in (*(seen.trial for seen in history.told), *history.pending) if trial.why == "full"]
        left = [at for at in self.networks if all(trial.key != self.problem.space.keys[at] for trial in done)]
        failed = {(trial.key, trial.site) for trial in history.failed if trial.why == "full"}
        for site in sites:
            at = next((at for at in left if (self.problem.space.keys[at], site) not in failed), None)
            if at is not None:
                left.remove(at)
                trials.append(self.problem.trial(at, site, self.problem.full_steps, "full", fraction=1.0))
        return trials
