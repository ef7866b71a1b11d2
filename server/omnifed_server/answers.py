"""What sites were asked and answered: each reply is on disk before it counts, and is never asked for again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from omnifed.errors import OmniFedError
from omnifed.evaluation.score import MEAN
from omnifed.federation.replies import (
    REPLY,
    BenchReply,
    EvaluateReply,
    ExportReply,
    FailedReply,
    Reply,
    TeachReply,
)
from omnifed.federation.tasks import EvaluateTask, Task
from omnifed.files import write_json
from omnifed.states import State
from omnifed.transport.pool import Arrival, TaskPool
from omnifed_server.rounds import OnEvent

R = TypeVar("R", TeachReply, BenchReply, EvaluateReply, ExportReply)
Tasks = Mapping[str, tuple[Task, State]]


class Answers:
    """The replies of a campaign's stages, in ``RUN/stages``.

    Args:
        pool: the sites.
        folder: RUN.
        needed: sites that a stage needs; 0 goes on with whoever answers.
        on_event: told of replies and misses; of what was on disk already with ``again`` set.
    """

    def __init__(self, pool: TaskPool, folder: Path, needed: int, on_event: OnEvent) -> None:
        self.pool, self.folder, self.needed, self.on_event = pool, folder, needed, on_event

    def ask(self, stage: str, tasks: Tasks, kind: type[R], arm: str, round_: int) -> dict[str, R]:
        """Replies by site, in the order of ``tasks``, kept ones first; too few are asked for once more.

        Args:
            stage: folder of the replies below ``RUN/stages``; its first part names the stage.
            tasks: what each site is asked, and the state that goes with it.
            kind: of the replies.
            arm, round_: of a miss's event.

        Raises:
            OmniFedError: OF531 if fewer sites answered than the campaign needs.
        """
        answers: dict[str, R] = {}
        for site, (task, _) in tasks.items():
            kept = self._kept(stage, site, task, kind)
            if kept:
                answers[site] = kept[0]
                self._tell(task, kept[0], {**kept[1], "again": True})
        needed = min(self.needed, len(tasks))
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
