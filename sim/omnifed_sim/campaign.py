"""The stages of a simulated campaign: teach once, then each arm's rounds, adoption and test, all through tasks."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from omnifed.data.prepare import SiteData
from omnifed.distill.spec import LAMBDA, DistillSpec
from omnifed.errors import OmniFedError
from omnifed.evaluation.predict import predict_masks
from omnifed.evaluation.tables import TEACHER
from omnifed.events import EventLog
from omnifed.federation.tasks import EvaluateTask, FailedReply, HelloReply, TeachReply, TeachTask
from omnifed.files import write_json
from omnifed.models.base import LayerGroup
from omnifed.models.registry import build_student
from omnifed.models.weights import load_state
from omnifed.states import State, read_state, write_state
from omnifed.transport.pool import TaskPool
from omnifed_client.store import SiteStore
from omnifed_server.rounds import ArmConfig, run_arm
from omnifed_sim.central import train_central
from omnifed_sim.config import Arm, Precision, SimConfig
from omnifed_sim.console import Screen
from omnifed_sim.machine import cpu_seconds, peak_mib


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
    """

    def __init__(
        self,
        config: SimConfig,
        folder: Path,
        sites: dict[str, SiteData],
        precision: Precision,
        events: EventLog,
        screen: Screen,
    ) -> None:
        self.config, self.folder, self.sites = config, folder, sites
        self.train = config.train_spec(precision)
        fit = config.teacher.train.model_copy(update={"precision": precision})
        self.teacher = config.teacher.model_copy(update={"train": fit})
        self.events, self.screen = events, screen
        self.outcomes: dict[str, Outcome] = {}

    def run(self, pool: TaskPool) -> None:
        """All arms, in the configuration's order; results are in :attr:`outcomes`."""
        hellos = pool.hello()
        needed = layers_apart(list(hellos.values()))
        taught = self._teach(pool) if "omnikd" in self.config.arms else []
        for arm in self.config.arms:
            started, cpu = time.perf_counter(), cpu_seconds()
            values = self._central(needed) if arm == "central" else self._federated(pool, arm, needed, taught)
            spent = {"seconds": time.perf_counter() - started, "cpu_seconds": cpu_seconds() - cpu}
            self.events.add("arm", {"arm": arm, **spent, "peak_mib": peak_mib(), **values})

    def _teach(self, pool: TaskPool) -> list[str]:
        record = self.folder / "taught.json"
        if record.is_file():
            # A resumed run keeps to the sites that it began with: an arm whose sites change is another arm.
            return self._test_teachers(pool, json.loads(record.read_text()))
        self.screen.stage("teach", len(self.sites))
        task = TeachTask(id="teach", teacher=self.teacher)
        names = {name: (task.model_copy(update={"id": f"teach.{name}"}), State()) for name in self.sites}
        taught = []
        for arrival in pool.run(names):
            reply = arrival.reply
            if not isinstance(reply, TeachReply):
                self._miss("omnikd", -1, arrival.site, reply)
                continue
            taught.append(arrival.site)
            self.events.add(
                "teach", {"site": arrival.site, **reply.model_dump(exclude={"id", "kind", "site", "protocol"})}
            )
            self.screen.say(
                f"teacher at {arrival.site}: validation Dice {reply.dice:.3f}, {reply.cached} images cached "
                f"({reply.cache_bytes / 2**20:.1f} MiB), {reply.seconds:.0f} s"
            )
            self.screen.advance(arrival.site)
        if not taught:
            raise OmniFedError(
                "OF115",
                "At least one site must have taught its teacher before students can distil.",
                seen=f"none of {', '.join(self.sites)}",
                remedy="Mend what the sites' misses name, then run the same command with --resume.",
            )
        write_json(record, taught)
        return self._test_teachers(pool, taught)

    def _test_teachers(self, pool: TaskPool, taught: list[str]) -> list[str]:
        outcome = Outcome()
        for arrival in pool.run({n: (self._evaluation(n, TEACHER, "teacher"), State()) for n in taught}):
            if isinstance(arrival.reply, FailedReply):
                self._miss(TEACHER, -1, arrival.site, arrival.reply)
            else:
                outcome.masks[arrival.site] = self._store(arrival.site).load_evaluation(TEACHER, "teacher", "test")[0]
        self.outcomes[TEACHER] = outcome
        return taught

    def _federated(self, pool: TaskPool, arm: Arm, needed: tuple[LayerGroup, ...], taught: list[str]) -> dict[str, Any]:
        config = self.config
        self.screen.stage(arm, config.rounds)
        first = next(iter(self.sites.values())).config
        keeps_norms = arm in ("fedbn", "omnikd")
        local: tuple[LayerGroup, ...] = tuple(dict.fromkeys((*needed, "norm") if keeps_norms else needed))
        result = run_arm(
            pool,
            ArmConfig(
                campaign="sim",
                name=arm,
                sites=tuple(self.sites),
                student=config.student,
                train=self.train,
                rounds=config.rounds,
                aggregate=arm != "local",
                local_layers=local,
                weighting=config.weighting,
                prox_mu=config.prox_mu if arm == "fedprox" else 0.0,
                distill={name: self._distill(name) for name in taught} if arm == "omnikd" else None,
                teacher=self.teacher if arm == "omnikd" else None,
                # Between modalities averaging can do harm: these sites may go on without it. Between like ones a model
                # that was just averaged is worse for a few steps, then better: a gate would end the federation.
                gate=bool(needed),
                upload="all" if config.hold_out and local and not needed else "global",
                quorum=config.quorum,
                deadline_s=config.deadline_s or None,
                seed=config.seed,
                channels=first.channels,
                classes=len(first.labels),
            ),
            self.folder / "arms" / arm,
            on_event=self._event,
        )
        outcome = Outcome(shared=read_state(result.starter)[0] if result.starter else {})
        if result.state:
            last = read_state(result.state)[0]
            if config.hold_out and not local:
                outcome.shared = last
            adopt = {n: (self._evaluation(n, arm, "global", local, adopt=True), last) for n in self.sites}
            for arrival in pool.run(adopt):
                if isinstance(arrival.reply, FailedReply):
                    self._miss(arm, config.rounds, arrival.site, arrival.reply)
        largest = -1
        for arrival in pool.run({n: (self._evaluation(n, arm, "adopted"), State()) for n in self.sites}):
            if isinstance(arrival.reply, FailedReply):
                self._miss(arm, config.rounds, arrival.site, arrival.reply)
                continue
            store = self._store(arrival.site)
            outcome.masks[arrival.site] = store.load_evaluation(arm, "adopted", "test")[0]
            outcome.adopted[arrival.site] = store.adopted(arm)[0]
            if arm == "local" and not needed and len(self.sites[arrival.site].train) > largest:
                # A hospital that joins without a federation takes the model of the largest one.
                largest, outcome.shared = len(self.sites[arrival.site].train), outcome.adopted[arrival.site]
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
            spec = self.train.model_copy(update={"steps": config.rounds * config.steps})
            checkpoint = self.folder / "arms" / "central" / "fit.ckpt"
            states = train_central(sites, config.student, spec, local, checkpoint, self.screen.progress_of("central"))
            for path, state in zip(paths, states, strict=True):
                write_state(path, state, {})
        outcome = Outcome(shared=states[0] if not needed else {})
        for site, state in zip(sites, states, strict=True):
            model = build_student(config.student, site.config.spec)
            load_state(model, state)
            outcome.masks[site.config.name] = predict_masks(model, site.test)
            outcome.adopted[site.config.name] = state
        self.outcomes["central"] = outcome
        return {"bytes": 0}

    def _distill(self, site: str) -> DistillSpec:
        config = self.sites[site].config
        weights = LAMBDA.get(config.modality) if self.config.distill == "modality" else None
        return DistillSpec(weights=weights or LAMBDA["universal"], beta=self.config.distill_beta)

    def _evaluation(
        self, site: str, arm: str, which: Any, local: tuple[LayerGroup, ...] = (), *, adopt: bool = False
    ) -> EvaluateTask:
        return EvaluateTask(
            id=f"{arm}.{which}.{site}",
            arm=arm,
            student=self.config.student,
            split="val" if adopt else "test",
            which=which,
            local_layers=local,
            adopt=adopt,
            teacher=self.teacher if which == "teacher" else None,
        )

    def _store(self, site: str) -> SiteStore:
        return SiteStore(self.folder / "sites" / site / "state")

    def _event(self, event: str, values: dict[str, Any]) -> None:
        self.events.add(event, values)
        if event == "miss":
            self.screen.say(f"{values['arm']} round {values['round'] + 1}: {values['site']} missed, {values['rule']}")
        if event == "aggregate":
            self.screen.advance(f"round {values['round'] + 1}")

    def _miss(self, arm: str, round_: int, site: str, reply: Any) -> None:
        code, rule = getattr(reply, "code", "OF504"), getattr(reply, "rule", "A reply must answer its task.")
        self._event("miss", {"arm": arm, "round": round_, "site": site, "code": code, "rule": rule})


def layers_apart(hellos: list[HelloReply]) -> tuple[LayerGroup, ...]:
    """Groups that unlike sites cannot share: the stem where channels differ, the head where labels differ.

    With either, both stay local, as between modalities the first filters and the last ones mean different things.

    Raises:
        OmniFedError: OF113 if no site answered.
    """
    if not hellos:
        raise OmniFedError(
            "OF113", "At least one site must train.", seen="none answered", remedy="See the sites' logs."
        )
    alike = len({(h.channels, h.labels, h.modality) for h in hellos}) == 1
    return () if alike else ("stem", "head")
