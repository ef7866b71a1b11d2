"""What both searches of a campaign share."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from omnifed.federation.tasks import TrialTask
from omnifed.files import write_atomic
from omnifed.models.spec import StudentSpec
from omnifed.search.results import ArchitectureResult, WeightResult
from omnifed.search.spec import ArchitectureSpec, WeightSpec, budget
from omnifed.search.study import Study
from omnifed.search.trials import Trial
from omnifed_server.search_loop import SearchLoop
from omnifed_server.stages import Stages

log = logging.getLogger("omnifed.server")


class SearchStage:
    """What both searches share: the journal, the loop, a trial's task, the budget.

    Args:
        stages: of the campaign.
        spec: how to search.
    """

    stage: str

    def __init__(self, stages: Stages, spec: ArchitectureSpec | WeightSpec) -> None:
        self.stages, self.plan, self.pool, self.spec = stages, stages.plan, stages.pool, spec
        self.folder = stages.folder / "search"
        self.facts = stages.known(self.plan.sites)
        self.sites = tuple(site for site in self.plan.sites if site in self.facts.hellos)

    def open_study(self, searcher: Any, name: str, about: dict[str, Any]) -> Study:
        """The journal ``NAME.jsonl``; ``about`` is what its questions depend on beside the settings."""
        settings = self.spec.model_dump(mode="json", exclude={"budget"})
        return Study(searcher, self.folder / f"{name}.jsonl", {"campaign": self.plan.campaign, **settings, **about})

    def loop(self, study: Study, sites: tuple[str, ...], total: int, task_of: Callable[[Trial], Any]) -> SearchLoop:
        """The loop over ``sites``; ``total`` trials are to be seen in the view."""
        self.stages.on_event("stage", {"stage": self.stage, "total": total})
        loop = SearchLoop(self.stage, study, self.pool, sites, task_of, self.stages.on_event, total)
        loop.tell_again()
        return loop

    def task(self, trial: Trial, student: StudentSpec, **more: Any) -> TrialTask:
        """What a trial asks of its site; ``more`` are further fields of the task."""
        name = self.stage.rpartition("-")[2]
        train = self.plan.train.model_copy(
            update={
                "steps": trial.steps,
                "total_steps": trial.steps,
                "first_step": 0,
                "warmup": min(20, trial.steps // 10),
                # One seed for all points: they see the same patients in the same order. A repeat sees others.
                "seed": self.plan.seed + 7919 * trial.repeat,
            }
        )
        return TrialTask(
            id=f"{self.plan.campaign}.{name}.{trial.site}.{trial.id}",
            campaign=self.plan.campaign,
            purpose=self.plan.purpose,
            arm=f"{name}-{trial.steps}",
            student=student,
            train=train,
            fraction=trial.fraction,
            group=f"{name}-{trial.steps}",
            **more,
        )

    def spent(self, study: Study) -> Callable[[str], bool]:
        """Whether the budget is spent, whatever the site."""
        trials, seconds = budget(self.spec.budget)

        def enough(site: str) -> bool:
            if trials is None:
                return study.spent_s >= (seconds or 0.0)
            return self.count(study, site) >= trials

        return enough

    def count(self, study: Study, site: str) -> int:
        """Trials that count against a budget in trials: of all sites."""
        return len(counted(study))

    def finish(self, name: str, result: ArchitectureResult | WeightResult, chosen: dict[str, str]) -> None:
        """Writes ``NAME.json`` and tells what was found."""
        write_atomic(self.folder / f"{name}.json", result.model_dump_json(indent=1).encode())
        figures = {"trials": result.trials, "failed": result.failed, "seconds": result.seconds}
        self.stages.on_event("search", {"stage": self.stage, **figures, "chosen": chosen})


def counted(study: Study) -> list[Trial]:
    """Trials that a budget counts: all that were not given up, but those in full."""
    history = study.history
    trials = [*(seen.trial for seen in history.told), *history.pending, *history.failed]
    return [trial for trial in trials if trial.why != "full"]


def read_result(path: Path, kind: Any) -> Any:
    """The result of an earlier search, or None where there is none that can be read."""
    try:
        return kind.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        log.warning("%s is damaged and is made again from the journal: %s", path, type(error).__name__)
        return None
