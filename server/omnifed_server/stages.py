"""The stages of a campaign, the same in a simulation and in the field: prepare, teach, train, adopt, test, export.

A coordinator that was killed asks only for what it does not have; a site that has finished a task answers it from its
own store, as task ids are deterministic.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omnifed.errors import OmniFedError
from omnifed.evaluation.tables import TEACHER
from omnifed.federation.replies import BenchReply, EvaluateReply, ExportReply, HelloReply, TeachReply
from omnifed.federation.tasks import BenchTask, EvaluateTask, ExportTask, TeachTask
from omnifed.files import write_json
from omnifed.models.base import LayerGroup
from omnifed.models.spec import StudentSpec
from omnifed.states import State, read_state
from omnifed.transport.pool import TaskPool
from omnifed.trust.identity import CoordinatorIdentity
from omnifed_server.answers import Answers
from omnifed_server.arm import ArmResult
from omnifed_server.plan import DISTILLED, SEARCH_ARCHITECTURE, Facts, Plan, arm_config, layers_apart
from omnifed_server.rounds import OnEvent, run_arm, slices_for


class Stages:
    """The stages of one campaign.

    Args:
        plan: what to do.
        pool: the sites.
        folder: RUN.
        on_event: told of stages, teachers, rounds, misses, evaluations and exports. What was on disk already is told
            again, with ``again`` set.
        identity: of the coordinator; private rounds need it.
    """

    def __init__(
        self,
        plan: Plan,
        pool: TaskPool,
        folder: Path,
        on_event: OnEvent,
        identity: CoordinatorIdentity | None = None,
    ) -> None:
        self.plan, self.pool, self.folder, self.on_event, self.identity = plan, pool, folder, on_event, identity
        self._answers = Answers(pool, folder, plan.needed, on_event)

    # Who is there -----------------------------------------------------------------------------------------------

    def prepare(self) -> Facts:
        """Asks who is there; what the first answer settled, a resumed campaign keeps.

        Raises:
            OmniFedError: OF113 if no site answered.
        """
        self.on_event("stage", {"stage": "prepare", "total": len(self.plan.sites)})
        found = self.pool.hello()
        here = {site: found[site] for site in self.plan.sites if site in found}
        if not self._facts.is_file():
            apart = layers_apart(list(here.values()))
            first = next(iter(here.values()))
            self._save(Facts(here, apart, first.channels, first.classes))
        return self._meet(here)

    @property
    def facts(self) -> Facts:
        """What :meth:`prepare` settled."""
        values = json.loads(self._facts.read_bytes())
        hellos = {site: HelloReply.model_validate(hello) for site, hello in values["hellos"].items()}
        return Facts(hellos, tuple(values["apart"]), values["channels"], values["classes"])

    @property
    def _facts(self) -> Path:
        return self.folder / "prepared.json"

    def _save(self, facts: Facts) -> None:
        hellos = {site: hello.model_dump(mode="json") for site, hello in facts.hellos.items()}
        about = {"apart": list(facts.apart), "channels": facts.channels, "classes": facts.classes}
        write_json(self._facts, {**about, "hellos": hellos})

    def _meet(self, here: Mapping[str, HelloReply]) -> Facts:
        """Adds who joined later."""
        old = self.facts
        known = {**here, **old.hellos}
        facts = Facts({s: known[s] for s in self.plan.sites if s in known}, old.apart, old.channels, old.classes)
        if set(facts.hellos) != set(old.hellos):
            self._save(facts)
        return facts

    def known(self, sites: tuple[str, ...]) -> Facts:
        """The facts, with those of ``sites`` that joined after :meth:`prepare`."""
        facts = self.facts
        return facts if set(sites) <= set(facts.hellos) else self._meet(self.pool.hello())

    # The stages -------------------------------------------------------------------------------------------------

    def teach(self) -> tuple[str, ...]:
        """Each site fine-tunes its teacher; the sites that did.

        A resumed campaign keeps to the sites that it began with: an arm whose sites change is another arm.

        Raises:
            OmniFedError: OF115 if no site did, OF531 if fewer than the plan needs.
        """
        record = self.folder / "taught.json"
        if record.is_file():
            return tuple(json.loads(record.read_bytes()))
        self.on_event("stage", {"stage": "teach", "total": len(self.plan.sites)})
        tasks = {s: (TeachTask(**self._head("teach", s), teacher=self.plan.teacher), State()) for s in self.plan.sites}
        taught = tuple(self._answers.ask("teach", tasks, TeachReply, DISTILLED, -1))
        if not taught:
            raise OmniFedError(
                "OF115",
                "At least one site must have taught its teacher before students can distil.",
                seen=f"none of {', '.join(self.plan.sites)}",
                remedy="Mend what the sites' misses name, then start the same command again (omnifed-sim: --resume).",
            )
        write_json(record, list(taught))
        return taught

    def test_teachers(self, taught: tuple[str, ...]) -> dict[str, EvaluateReply]:
        """Scores of each site's teacher on its own test cases."""
        tasks = {site: (self._evaluation(site, TEACHER, "teacher"), State()) for site in taught}
        return self._answers.ask(f"test/{TEACHER}", tasks, EvaluateReply, TEACHER, -1)

    def measure(self, sites: tuple[str, ...], students: tuple[StudentSpec, ...]) -> dict[str, BenchReply]:
        """Each of ``sites`` measures the inference of ``students`` on its own device."""
        self.on_event("stage", {"stage": "bench", "total": len(sites)})
        tasks = {s: (BenchTask(**self._head("bench", s), students=students), State()) for s in sites}
        return self._answers.ask("bench", tasks, BenchReply, SEARCH_ARCHITECTURE, -1)

    def train(self, arm: str, taught: tuple[str, ...]) -> ArmResult:
        """The rounds of one arm."""
        self.on_event("stage", {"stage": arm, "total": self.plan.rounds})
        config = arm_config(self.plan, arm, self.known(taught), taught)
        folder = self.folder / "arms" / arm
        return run_arm(self.pool, config, folder, identity=self.identity, on_event=self.on_event)

    def adopt(self, arm: str, result: ArmResult) -> tuple[str, ...]:
        """Offers the last averaged model to each site's gate; the sites that know now what they would deploy."""
        if result.state is None:
            return self.plan.sites
        last, local = read_state(result.state)[0], self.plan.local_layers(arm, self.facts.apart)
        slices = slices_for(arm_config(self.plan, arm, self.facts, ()), last)
        tasks = {s: (self._evaluation(s, arm, "global", local, adopt=True), slices[s]) for s in self.plan.sites}
        return tuple(self._answers.ask(f"adopt/{arm}", tasks, EvaluateReply, arm, self.plan.rounds))

    def test(self, arm: str, sites: tuple[str, ...]) -> dict[str, EvaluateReply]:
        """Scores of the model that each of ``sites`` would deploy, on its own test cases."""
        tasks = {site: (self._evaluation(site, arm, "adopted"), State()) for site in sites}
        return self._answers.ask(f"test/{arm}", tasks, EvaluateReply, arm, self.plan.rounds)

    def export(self, arm: str) -> dict[str, ExportReply]:
        """Each site exports the model that it would deploy; the file stays there."""
        self.on_event("stage", {"stage": "export", "total": len(self.plan.sites)})
        tasks = {
            s: (ExportTask(**self._head(arm, "export", s), arm=arm, student=self.plan.student_of(s)), State())
            for s in self.plan.sites
        }
        return self._answers.ask("export", tasks, ExportReply, arm, self.plan.rounds)

    def _evaluation(
        self, site: str, arm: str, which: Any, local: tuple[LayerGroup, ...] = (), *, adopt: bool = False
    ) -> EvaluateTask:
        return EvaluateTask(
            **self._head(arm, which, site),
            arm=arm,
            student=self.plan.student_of(site),
            split="val" if adopt else "test",
            which=which,
            local_layers=local,
            adopt=adopt,
            teacher=self.plan.teacher if which == "teacher" else None,
        )

    def _head(self, *parts: str) -> dict[str, Any]:
        named = {"id": ".".join((self.plan.campaign, *parts)), "campaign": self.plan.campaign}
        return {**named, "purpose": self.plan.purpose}
