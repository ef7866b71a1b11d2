"""The stage ``search-architecture``."""

from __future__ import annotations

from typing import Any

from omnifed.federation.tasks import TrialTask
from omnifed.models.base import SiteSpec
from omnifed.models.scaling import costs
from omnifed.models.slices import slice_map, take
from omnifed.models.spec import PRESETS, StudentSpec
from omnifed.search.architecture import ArchitectureSearch
from omnifed.search.results import ArchitectureResult
from omnifed.search.space import enumerate_space
from omnifed.search.spec import ArchitectureSpec, budget, resolve
from omnifed.search.study import Study
from omnifed.search.trials import Trial
from omnifed.states import State, read_state
from omnifed_server.device_costs import device_costs
from omnifed_server.plan import SEARCH_ARCHITECTURE, Facts, arm_config
from omnifed_server.rounds import run_arm
from omnifed_server.search_stage import SearchStage

SHARED = "shared"
"""The arm in which the network of the warm starts is trained."""


class ArchitectureSearchStage(SearchStage):
    """Finds the student of each class of devices.

    Args:
        stages: of the campaign.
        spec: how to search.
    """

    stage = SEARCH_ARCHITECTURE
    spec: ArchitectureSpec

    def run(self) -> ArchitectureResult:
        """Searches until the budget is spent, from where the journal stands."""
        size, site = image_size(self.facts), SiteSpec(self.facts.channels, self.facts.classes)
        networks = enumerate_space(self.spec, self.plan.student, site, size)
        targets = resolve(self.spec.targets, self.plan.sites)
        devices = device_costs(self.stages, targets, networks, site, size)
        searcher = ArchitectureSearch(
            study=self.plan.campaign,
            spec=self.spec,
            base=self.plan.student,
            networks=networks,
            estimates=devices.estimates,
            targets=devices.targets,
            sites=self.sites,
            full_steps=self.plan.rounds * self.plan.train.steps,
        )
        shared = self._shared(networks) if self.spec.warm_start else None
        about = {"targets": [target.model_dump(mode="json") for target in devices.targets]}
        with self.open_study(searcher, "architecture", about) as study:
            trials = budget(self.spec.budget)[0] or 0
            loop = self.loop(study, self.sites, trials, lambda trial: self._asked(trial, shared))
            spent = loop.run(self.spent(study))
            if self.spec.full:
                self.stages.on_event("stage", {"stage": self.stage, "total": trials + self.spec.full})
                loop.total = trials + self.spec.full
                study.searcher = searcher.full(study.history)
                loop.run(lambda site: False)
            result = searcher.result(
                study.history,
                stopped=f"the budget of {self.spec.budget} is spent" if spent else "nothing was left to try",
                cost=self._cost(study, site, size, full=False, shared=shared is not None),
                image_size=size,
            )
            result = result.model_copy(update={"full_cost": self._cost(study, site, size, full=True)})
        from omnifed.reporting.search_figures import write_pareto

        self.finish("architecture", result, {device.name: device.chosen for device in result.devices})
        write_pareto(result, self.folder / "architecture.svg")
        return result

    def _asked(self, trial: Trial, shared: tuple[StudentSpec, State] | None) -> tuple[TrialTask, State]:
        state = State()
        if shared:
            site = SiteSpec(self.facts.channels, self.facts.classes)
            state = take(shared[1], slice_map(shared[0], trial.student, site))
        return self.task(trial, trial.student, anchor=trial.why == "anchor"), state

    def _shared(self, networks: Any) -> tuple[StudentSpec, State]:
        """The largest network of the space, trained once by all sites together."""
        large = max((network for network in networks), key=lambda network: network.macs).student
        config = arm_config(self.plan, "fedavg", self.facts, ()).model_copy(
            update={"name": SHARED, "student": large, "rounds": 1, "train": self._shared_train()}
        )
        result = run_arm(self.pool, config, self.folder / SHARED, on_event=self.stages.on_event)
        assert result.state is not None
        return large, read_state(result.state)[0]

    def _shared_train(self) -> Any:
        return self.plan.train.model_copy(update={"steps": self.spec.steps * self.spec.eta, "total_steps": 0})

    def _cost(self, study: Study, site: SiteSpec, size: tuple[int, int], *, full: bool, shared: bool = False) -> float:
        """Steps x MACs of the brief trials, or of those in full, over training the balanced student once everywhere."""
        alpha, beta = PRESETS["balanced"]
        balanced = self.plan.student.model_copy(update={"alpha": alpha, "beta": beta})
        trials = [seen.trial for seen in study.history.told if (seen.trial.why == "full") == full]
        work = float(sum(trial.steps * costs(trial.student, site, size).macs for trial in trials))
        if shared:
            large = self.plan.student.model_copy(update={"alpha": self.spec.alpha[1], "beta": self.spec.beta[1]})
            work += len(self.sites) * self._shared_train().steps * costs(large, site, size).macs
        steps = len(self.sites) * self.plan.rounds * self.plan.train.steps
        return work / (steps * costs(balanced, site, size).macs)


def image_size(facts: Facts) -> tuple[int, int]:
    """The largest of the sites' image sizes: a student must be fast enough everywhere."""
    return max((hello.image_size for hello in facts.hellos.values()), key=lambda size: size[0] * size[1])
