"""The stage ``search-weights``."""

from __future__ import annotations

from omnifed.distill.spec import LAMBDA
from omnifed.errors import OmniFedError
from omnifed.federation.tasks import TrialTask
from omnifed.search.results import ArchitectureResult, WeightResult
from omnifed.search.spec import WeightSpec, budget
from omnifed.search.study import Study
from omnifed.search.trials import Trial, weights_key
from omnifed.search.weights import WeightSearch
from omnifed.states import State
from omnifed_server.plan import SEARCH_WEIGHTS, distill_spec
from omnifed_server.search_stage import SearchStage, counted, read_result
from omnifed_server.stages import Stages


class WeightSearchStage(SearchStage):
    """Finds OmniKD's weights, for each site and for all.

    Args:
        stages: of the campaign.
        spec: how to search.
        taught: sites with a teacher: the only ones that can distil.
    """

    stage = SEARCH_WEIGHTS
    spec: WeightSpec

    def __init__(self, stages: Stages, spec: WeightSpec, taught: tuple[str, ...]) -> None:
        super().__init__(stages, spec)
        self.sites = tuple(site for site in self.sites if site in taught)
        if not self.sites:
            raise OmniFedError(
                "OF767",
                "A search for OmniKD's weights needs a site with a teacher.",
                seen="no site was taught",
                remedy='Add "teach" to the stages and "omnikd" to the arms.',
            )

    def run(self) -> WeightResult:
        """Searches until each site has spent its budget, from where the journal stands."""
        searcher = WeightSearch(study=self.plan.campaign, spec=self.spec, student=self.plan.student, sites=self.sites)
        with self.open_study(searcher, "weights", {}) as study:
            total = (budget(self.spec.budget)[0] or 0) * len(self.sites)
            loop = self.loop(study, self.sites, total, self._asked)
            spent = loop.run(self.spent(study))
            result = searcher.result(
                study.history,
                stopped=f"the budget of {self.spec.budget} at each site is spent" if spent else "nothing left to try",
                latency_ms=self._latency(),
            )
        self.finish("weights", result, {"universal": weights_key(result.universal.weights)})
        return result

    def _asked(self, trial: Trial) -> tuple[TrialTask, State]:
        assert trial.weights is not None
        distill = distill_spec(self.plan, self.facts, trial.site).model_copy(update={"weights": trial.weights})
        first = trial.weights == LAMBDA["universal"]
        student = self.plan.student_of(trial.site)
        return self.task(trial, student, anchor=first, distill=distill, teacher=self.plan.teacher), State()

    def count(self, study: Study, site: str) -> int:
        """Trials that count against a budget in trials: this site's."""
        return sum(trial.site == site for trial in counted(study))

    def _latency(self) -> float | None:
        """Of the student on the first target, where an architecture search has told: the seed's term of F."""
        found = read_result(self.folder / "architecture.json", ArchitectureResult)
        if not found:
            return None
        device = found.devices[0]
        return next(member.p50_ms for member in device.front if member.key == device.chosen)
