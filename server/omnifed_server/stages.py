"""The stages of a campaign, the same in a simulation and in the field: prepare, teach, train, adopt, test, export.

Each reply is on disk before it counts, so a coordinator that was killed asks only for what it does not have; a site
that has finished a task answers it from its own store, as task ids are deterministic.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from omnifed.errors import OmniFedError
from omnifed.evaluation.score import MEAN
from omnifed.evaluation.tables import TEACHER
from omnifed.federation.replies import (
    REPLY,
    BenchReply,
    EvaluateReply,
    ExportReply,
    FailedReply,
    HelloReply,
    Reply,
    TeachReply,
)
from omnifed.federation.tasks import BenchTask, EvaluateTask, ExportTask, Task, TeachTask
from omnifed.files import write_json
from omnifed.models.base import LayerGroup
from omnifed.models.spec import StudentSpec
from omnifed.states import State, read_state
from omnifed.transport.pool import Arrival, TaskPool
from omnifed.trust.identity import CoordinatorIdentity
from omnifed_server.arm import ArmResult
from omnifed_server.plan import DISTILLED, SEARCH_ARCHITECTURE, Facts, Plan, arm_config, layers_apart
from omnifed_server.rounds import OnEvent, run_arm, slices_for

R = TypeVar("R", TeachReply, BenchReply, EvaluateReply, ExportReply)
Tasks = Mapping[str, tuple[Task, State]]


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
        taught = tuple(self._ask("teach", tasks, TeachReply, DISTILLED, -1))
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
        return self._ask(f"test/{TEACHER}", tasks, EvaluateReply, TEACHER, -1)

    def measure(self, sites: tuple[str, ...], students: tuple[StudentSpec, ...]) -> dict[str, BenchReply]:
        """Each of ``sites`` measures the inference of ``students`` on its own device."""
        self.on_event("stage", {"stage": "bench", "total": len(sites)})
        tasks = {s: (BenchTask(**self._head("bench", s), students=students), State()) for s in sites}
        return self._ask("bench", tasks, BenchReply, SEARCH_ARCHITECTURE, -1)

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
        return tuple(self._ask(f"adopt/{arm}", tasks, EvaluateReply, arm, self.plan.rounds))

    def test(self, arm: str, sites: tuple[str, ...]) -> dict[str, EvaluateReply]:
        """Scores of the model that each of ``sites`` would deploy, on its own test cases."""
        tasks = {site: (self._evaluation(site, arm, "adopted"), State()) for site in sites}
        return self._ask(f"test/{arm}", tasks, EvaluateReply, arm, self.plan.rounds)

    def export(self, arm: str) -> dict[str, ExportReply]:
        """Each site exports the model that it would deploy; the file stays there."""
        self.on_event("stage", {"stage": "export", "total": len(self.plan.sites)})
        tasks = {
            s: (ExportTask(**self._head(arm, "export", s), arm=arm, student=self.plan.student_of(s)), State())
            for s in self.plan.sites
        }
        return self._ask("export", tasks, ExportReply, arm, self.plan.rounds)

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

    # Asking once ------------------------------------------------------------------------------------------------

    def _ask(self, stage: str, tasks: Tasks, kind: type[R], arm: str, round_: int) -> dict[str, R]:
        """Replies by site, in the order of ``tasks``, kept ones first; too few are asked for once more."""
        answers: dict[str, R] = {}
        for site, (task, _) in tasks.items():
            kept = self._kept(stage, site, task, kind)
            if kept:
                answers[site] = kept[0]
                self._tell(task, kept[0], {**kept[1], "again": True})
        needed = min(self.plan.needed, len(tasks))
        misses: dict[str, str] = {}
        for _ in range(2 if needed else 1):
            rest = {site: asked for site, asked in tasks.items() if site not in answers}
            if not rest or (misses and len(answers) >= needed):
                break
            for arrival in self.pool.run(rest, needed=max(0, needed - len(answers))):
                task, reply = rest[arrival.site][0], arrival.reply
                fault = _fault(reply, kind)
                if fault or not isinstance(reply, kind):
                    code, rule = fault or _UNASKED
                    misses[arrival.site] = code
                    fields = {"arm": arm, "round": round_, "site": arrival.site, "code": code, "rule": rule}
                    self.on_event("miss", fields)
                    continue
                costs = {"bytes_up": arrival.bytes_up, "bytes_down": arrival.bytes_down}
                self._keep(stage, arrival, costs)
                answers[arrival.site] = reply
                self._tell(task, reply, costs)
        if len(answers) < needed:
            raise _too_few(stage, needed, len(tasks), len(answers), misses)
        return {site: answers[site] for site in tasks if site in answers}

    def _record(self, stage: str, site: str) -> Path:
        return self.folder / "stages" / stage / f"{site}.json"

    def _keep(self, stage: str, arrival: Arrival, costs: dict[str, int]) -> None:
        write_json(self._record(stage, arrival.site), {"reply": arrival.reply.model_dump(mode="json"), "costs": costs})

    def _kept(self, stage: str, site: str, task: Task, kind: type[R]) -> tuple[R, dict[str, int]] | None:
        path = self._record(stage, site)
        try:
            record = json.loads(path.read_bytes())
            reply, costs = REPLY.validate_python(record["reply"]), dict(record["costs"])
        except (OSError, ValueError, KeyError, TypeError):
            return None  # absent or damaged: the site is asked, and answers from its store
        return (reply, costs) if isinstance(reply, kind) and reply.id == task.id else None

    def _tell(self, task: Task, reply: Reply, costs: Mapping[str, Any]) -> None:
        """The event of a reply that counts."""
        if isinstance(reply, TeachReply):
            own = reply.model_dump(mode="json", exclude={"id", "kind", "protocol"})
            self.on_event("teach", {**own, **costs})
        elif isinstance(reply, EvaluateReply) and isinstance(task, EvaluateTask):
            asked = {"arm": task.arm, "site": reply.site, "which": task.which, "split": task.split}
            self.on_event("evaluate", {**asked, "dice": mean_dice_of(reply), "n": reply.n, **costs})
        elif isinstance(reply, BenchReply):
            about = {"site": reply.site, "device": reply.device, "networks": len(reply.measurements)}
            self.on_event("bench", {**about, "seconds": reply.seconds, **costs})
        elif isinstance(reply, ExportReply):
            file = {"bytes": reply.bytes, "path": f"models/{task.arm}/model.onnx", "sha256": reply.sha256}
            fields = {"arm": task.arm, "site": reply.site, **file, "max_logit_difference": reply.max_delta}
            self.on_event("export", {**fields, **costs})


_UNASKED = ("OF504", "A reply must answer its task.")


def mean_dice_of(reply: EvaluateReply) -> float | None:
    """Dice of the foreground mean; None where no case defines one."""
    return next((s.mean for s in reply.scores if s.metric == "dice" and s.label == MEAN), None)


def _fault(reply: Reply, kind: type[Any]) -> tuple[str, str] | None:
    """Why a reply does not count; None if it does."""
    if isinstance(reply, FailedReply):
        return reply.code, reply.rule
    if not isinstance(reply, kind):
        return _UNASKED
    try:
        json.dumps(reply.model_dump(mode="python"), allow_nan=False, default=str)
    except ValueError:
        return "OF505", "Figures and weights that leave a site must be finite numbers."
    return None


def _too_few(stage: str, needed: int, asked: int, have: int, misses: Mapping[str, str]) -> OmniFedError:
    names = ", ".join(f"{site} ({code})" for site, code in misses.items())
    return OmniFedError(
        "OF531",
        f"The stage {stage.partition('/')[0]} needs {needed} of {asked} sites, and they were asked twice.",
        seen=f"{have} answered; missing: {names}",
        remedy="See what the missing sites' codes say, then start the same command again (omnifed-sim: with "
        "--resume): replies at hand are kept.",
    )
