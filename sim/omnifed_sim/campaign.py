"""A simulated campaign: the stages of any campaign, and what only a simulation may do beside them.

It is every hospital at once: it reads predicted masks and adopted models from the sites' stores, pools their images for
the ceiling, and tests the shared model where nobody trained.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from omnifed.data.prepare import SiteData
from omnifed.evaluation.predict import predict_masks
from omnifed.evaluation.tables import TEACHER
from omnifed.events import EventLog
from omnifed.models.base import LayerGroup
from omnifed.models.registry import build_student
from omnifed.models.spec import StudentSpec
from omnifed.models.weights import load_state
from omnifed.states import State, read_state, write_state
from omnifed.transport.pool import TaskPool
from omnifed.trust.identity import CoordinatorIdentity
from omnifed_client.store import SiteStore
from omnifed_server.plan import Plan, planned
from omnifed_server.plan import layers_apart as layers_apart
from omnifed_server.searches import search
from omnifed_server.stages import Stages
from omnifed_sim.central import train_central
from omnifed_sim.config import Arm, Precision, SimConfig
from omnifed_sim.console import Screen
from omnifed_sim.machine import cpu_seconds, peak_mib

CAMPAIGN = "sim"
"""A run folder holds one campaign: its name need not be unique."""


@dataclass
class Outcome:
    """What an arm leaves.

    Attributes:
        masks: predicted masks of the test cases by site.
        adopted: the state that each site would deploy.
        shared: one model for a site that never trained; empty where the arm has none.
    """

    masks: dict[str, np.ndarray] = field(default_factory=dict)
    adopted: dict[str, State] = field(default_factory=dict)
    shared: State = field(default_factory=dict)


class Campaign:
    """Runs the arms of one simulation over a task pool.

    Args:
        config: what to run.
        folder: RUN.
        sites: the sites that train.
        precision: of every fit.
        events: told about rounds, misses, teachers and arms.
        screen: what the user sees.
        identity: of the coordinator, where updates are added up under masks.
    """

    def __init__(
        self,
        config: SimConfig,
        folder: Path,
        sites: dict[str, SiteData],
        precision: Precision,
        events: EventLog,
        screen: Screen,
        identity: CoordinatorIdentity | None = None,
    ) -> None:
        self.config, self.folder, self.sites, self.precision = config, folder, sites, precision
        self.events, self.screen, self.identity = events, screen, identity
        self.outcomes: dict[str, Outcome] = {}
        self.plan = plan_of(config, tuple(sites), precision)

    def run(self, pool: TaskPool) -> None:
        """All arms, in the configuration's order; results are in :attr:`outcomes`."""
        plan = plan_of(self.config, tuple(self.sites), self.precision)
        stages = Stages(plan, pool, self.folder, self._event, self.identity)
        facts = stages.prepare()
        taught = self._teach(stages) if self.config.teaches else ()
        self.plan = stages.plan = search(stages, taught)
        for arm in self.config.arms:
            started, cpu = time.perf_counter(), cpu_seconds()
            values = self._central(facts.apart) if arm == "central" else self._federated(stages, arm, taught)
            spent = {"seconds": time.perf_counter() - started, "cpu_seconds": cpu_seconds() - cpu}
            self.events.add("arm", {"arm": arm, **spent, "peak_mib": peak_mib(), **values})

    def _teach(self, stages: Stages) -> tuple[str, ...]:
        taught = stages.teach()
        if not self.config.arms:
            return taught
        self.outcomes[TEACHER] = Outcome({s: self._masks(s, TEACHER, "teacher") for s in stages.test_teachers(taught)})
        return taught

    def _federated(self, stages: Stages, arm: Arm, taught: tuple[str, ...]) -> dict[str, Any]:
        result, local = stages.train(arm, taught), self.plan.local_layers(arm, stages.facts.apart)
        outcome = Outcome(shared=read_state(result.starter)[0] if result.starter else {})
        if result.state and self.config.hold_out and not local:
            outcome.shared = read_state(result.state)[0]
        for site in stages.test(arm, stages.adopt(arm, result)):
            outcome.masks[site] = self._masks(site, arm, "adopted")
            outcome.adopted[site] = self._store(site).adopted(arm)[0]
        if arm == "local" and not local and outcome.adopted:
            # A hospital that joins without a federation takes the model of the largest one.
            outcome.shared = outcome.adopted[max(outcome.adopted, key=lambda site: len(self.sites[site].train))]
        self.outcomes[arm] = outcome
        return {"bytes": result.bytes_up + result.bytes_down, "virtual_seconds": result.virtual_seconds}

    def _central(self, needed: tuple[LayerGroup, ...]) -> dict[str, Any]:
        config, sites = self.config, list(self.sites.values())
        self.screen.stage("central", 1)
        local: tuple[LayerGroup, ...] = (*needed, "norm") if needed else ()
        paths = [self.folder / "arms" / "central" / f"{name}.safetensors" for name in self.sites]
        if all(path.is_file() for path in paths):
            states = [read_state(path)[0] for path in paths]
        else:
            spec = config.train_spec(self.precision).model_copy(update={"steps": config.rounds * config.steps})
            checkpoint = self.folder / "arms" / "central" / "fit.ckpt"
            states = train_central(
                sites, self.plan.largest, spec, local, checkpoint, self.screen.progress_of("central")
            )
            for path, state in zip(paths, states, strict=True):
                write_state(path, state, {})
        outcome = Outcome(shared=states[0] if not needed else {})
        for site, state in zip(sites, states, strict=True):
            model = build_student(self.plan.largest, site.config.spec)
            load_state(model, state)
            outcome.masks[site.config.name] = predict_masks(model, site.test)
            outcome.adopted[site.config.name] = state
        self.outcomes["central"] = outcome
        return {"bytes": 0}

    def _store(self, site: str) -> SiteStore:
        return SiteStore(self.folder / "sites" / site / "state", CAMPAIGN)

    def _masks(self, site: str, arm: str, which: str) -> np.ndarray:
        return self._store(site).load_evaluation(arm, which, "test")[0]

    def _event(self, event: str, values: dict[str, Any]) -> None:
        """Keeps what happened, and shows what a person waits for."""
        if event == "stage":
            if values["stage"] != "prepare":
                self.screen.stage(values["stage"], values["total"])
            return
        self.events.add(event, values)
        if event == "miss":
            place = values["arm"] if values["round"] < 0 else f"{values['arm']} round {values['round'] + 1}"
            self.screen.say(f"{place}: {values['site']} missed, {values['rule']}")
        if event == "warning":
            self.screen.say(f"{values['site']}: {values['text']}")
        if event == "trial":
            self.screen.advance(f"{values['site']} {values['dice']:.3f}, best {values['best']:.3f}")
        if event == "aggregate":
            mean = f", Dice {values['dice']:.3f} (mean of the sites)" if values.get("dice") is not None else ""
            self.screen.advance(f"round {values['round'] + 1}{mean}")
        if event == "teach" and not values.get("again"):
            self.screen.say(
                f"teacher at {values['site']}: validation Dice {values['dice']:.3f}, {values['cached']} images cached "
                f"({values['cache_bytes'] / 2**20:.1f} MiB), {values['seconds']:.0f} s"
            )
            self.screen.advance(values["site"])


def student_in(plan: Plan, arm: str, site: str) -> StudentSpec:
    """The student that ``site`` deploys after an arm; the ceiling trains the largest for all."""
    return plan.largest if arm == "central" else plan.student_of(site)


def plan_of(config: SimConfig, sites: tuple[str, ...], precision: Precision) -> Plan:
    """What the stages need of a simulation's configuration.

    Args:
        config: the simulation.
        sites: those that train.
        precision: of every fit.
    """
    return replace(
        planned(config, CAMPAIGN, sites, precision),
        # A starter averages the norms of single sites, which private aggregation does not show.
        starters=bool(config.hold_out) and config.aggregation.mode != "private",
        architecture=config.architecture if "architecture" in config.search else None,
        weights=config.weights if "weights" in config.search else None,
        one_machine=not config.emulate,
    )
