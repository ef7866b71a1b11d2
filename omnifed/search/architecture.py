"""The search for students: which network to try next, at which site, for how long."""

from __future__ import annotations

from collections.abc import Sequence

from omnifed.search.asked import Asked
from omnifed.search.dice_model import check
from omnifed.search.full import FullTrials, spread
from omnifed.search.gp import reproducible
from omnifed.search.problem import ArchitectureProblem
from omnifed.search.question import Known, Question
from omnifed.search.recommend import architecture_result
from omnifed.search.results import ArchitectureResult
from omnifed.search.trials import History, Trial


class ArchitectureSearch(ArchitectureProblem):
    """Asks which network to try; a :class:`~omnifed.search.trials.Searcher`.

    Each site starts with the anchor, the network of alpha = beta = 1, so that sites can be compared. Then a network
    goes to the next rung as soon as its own rung has ``eta`` times as many scores (asynchronous successive halving, Li
    et al., MLSys 2020); else a new one is tried. By the method ``surrogate`` the network that goes on is the one
    whose longer trial says most about which is the best within the budget (its knowledge gradient), at several sites
    where need be, and the new one is what NSGA-II finds on a draw of the Gaussian process of Dice with exact costs
    (Thompson sampling; Bradford et al., J. Global Optimization 2018). By ``nsga2`` and ``random`` the best on the front
    goes on, and a child of the networks tried, or any, is new. Networks that no target can afford are never tried, but
    the anchor.

    Its arguments are the problem's.
    """

    def ask(self, history: History, sites: Sequence[str]) -> list[Trial]:
        """One trial for each free site; see :class:`~omnifed.search.trials.Searcher`.

        Raises:
            OmniFedError: OF742 for an observation that is not finite.
        """
        if history.told:
            check(history.told)
        trials: list[Trial] = []
        known = Known(self, history)
        with reproducible([self.spec.seed, history.asked]):
            for site in sites:
                asked = Asked(history, trials, self.space, self.rungs, self.spec.fraction)
                trials += Question(self, known, asked, site, history.asked + len(trials)).trial()
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
