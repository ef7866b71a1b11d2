"""What a site keeps on disk: its student after each round, the model it adopted, finished replies, its teacher.

All that derives from patients is sealed with the site's vault key, each file for its own place in the folder.
Everything is keyed by what asked for it (arm, round, task id), so that a task that is asked again after a crash either
finds its finished reply or starts from exactly the state that it started from before.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from omnifed.errors import OmniFedError
from omnifed.federation.replies import REPLY, Reply
from omnifed.federation.tasks import FitTask, PrivateTask, Task, TrialTask
from omnifed.files import write_atomic
from omnifed.states import SEALED, State, StateFile, site_file, strip_prefix
from omnifed.teachers.spec import TeacherSpec
from omnifed.trust.identity import vault_key

KEPT_ROUNDS = 2
KEPT_TRIALS = 64
"""Replies to trials of an arm; one that was lost is asked again long before so many others."""

_ROUNDS = ("fit", "shares", "masked", "unmask")
"""Kinds of tasks that belong to a round."""


class SiteStore:
    """The state folder of one site.

    Args:
        folder: private to the site; made with mode 0700. Teachers lie there, for all campaigns.
        campaign: whose students and replies; "" for a folder that has only one.
    """

    def __init__(self, folder: Path, campaign: str = "") -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.folder = folder
        self.own = folder / "campaigns" / campaign if campaign else folder

    def of(self, campaign: str) -> SiteStore:
        """The same site's store of a campaign."""
        return SiteStore(self.folder, campaign)

    @property
    def instance(self) -> str:
        """Random name of this folder: a second site of the same name has another."""
        path = self.folder / "instance"
        if not path.is_file():
            write_atomic(path, secrets.token_hex(16).encode(), mode=0o600)
        return path.read_text()

    @property
    def vault(self) -> bytes:
        """Key (32 bytes) of what lies encrypted in this folder, for all campaigns; made at first use."""
        return vault_key(self.folder / "identity" / "vault.key")

    def file(self, path: Path) -> StateFile:
        """A sealed file of this folder."""
        return site_file(self.folder, path, self.vault)

    # Finished replies -------------------------------------------------------------------------------------------

    def _reply(self, task: Task) -> Path:
        digest = hashlib.sha256(task.model_dump_json().encode()).hexdigest()[:24]
        mark = f"-{task.round:04d}" if isinstance(task, FitTask | PrivateTask) else ""
        return self.own / "replies" / task.arm / f"{task.kind}-{digest}{mark}{SEALED}"

    def is_finished(self, task: Task) -> bool:
        """Whether exactly this task was finished before."""
        return self._reply(task).is_file()

    def finished(self, task: Task) -> tuple[Reply, State] | None:
        """The stored reply to exactly this task, if it was finished before."""
        path = self._reply(task)
        if not path.is_file():
            return None
        state, meta = self.file(path).read()
        return REPLY.validate_python(meta["reply"]), state

    def finish(self, task: Task, reply: Reply, state: State) -> None:
        """Keeps a finished reply; replies to rounds that are long over are removed."""
        path = self._reply(task)
        self.file(path).write(state, {"reply": reply.model_dump(mode="json")})
        if isinstance(task, TrialTask):
            trials = sorted(path.parent.glob(f"trial-*{SEALED}"), key=lambda file: file.stat().st_mtime_ns)
            for old in trials[:-KEPT_TRIALS]:
                old.unlink(missing_ok=True)
        if not isinstance(task, FitTask | PrivateTask):
            return
        for other in (file for kind in _ROUNDS for file in path.parent.glob(f"{kind}-*-*{SEALED}")):
            if _round_in(other) <= task.round - KEPT_ROUNDS:
                other.unlink(missing_ok=True)

    # The student, round by round --------------------------------------------------------------------------------

    def _round(self, arm: str, round_: int, what: str) -> Path:
        return self.own / "arms" / arm / f"{what}-{round_:04d}{SEALED}"

    def save_round(self, arm: str, round_: int, state: State, meta: dict[str, Any]) -> None:
        """Keeps the site's state after a round; ``meta["adopted_round"]`` says which adopted model it refers to."""
        self.file(self._round(arm, round_, "round")).write(state, meta)
        rounds = {round_ - age for age in range(KEPT_ROUNDS)}
        self._prune(arm, "round", rounds)
        self._prune(arm, "adopted", rounds | {meta["adopted_round"], meta["previous_adopted_round"]})

    def save_held(self, arm: str, round_: int, state: State) -> None:
        """Keeps the weights that a round began with, as both ends hold them: the next change refers to them.

        Those of the round before stay, for a round that is asked again.
        """
        self.file(self._round(arm, round_, "held")).write(state, {})
        self._prune(arm, "held", {round_ - age for age in range(KEPT_ROUNDS)})

    def load_held(self, arm: str, round_: int) -> State | None:
        """What :meth:`save_held` kept; None if it is not there or damaged, as the coordinator can send it again."""
        try:
            return self.file(self._round(arm, round_, "held")).read()[0]
        except OmniFedError:
            return None

    def _prune(self, arm: str, what: str, keep: set[int]) -> None:
        for path in self._round(arm, 0, what).parent.glob(f"{what}-*{SEALED}"):
            if _round_in(path) not in keep:
                path.unlink(missing_ok=True)

    def load_round(self, arm: str, round_: int) -> tuple[State, dict[str, Any]] | None:
        """The site's state after ``round_``, or None if it has none."""
        path = self._round(arm, round_, "round")
        return self.file(path).read() if path.is_file() else None

    def last_round(self, arm: str, *, before: int | None = None) -> int | None:
        """The last round (below ``before``) after which the site has a state."""
        paths = (self.own / "arms" / arm).glob(f"round-*{SEALED}")
        rounds = [_round_in(path) for path in paths]
        return max((r for r in rounds if before is None or r < before), default=None)

    def save_adopted(self, arm: str, round_: int, model: State, dice: float) -> None:
        """Keeps the model that the gate adopted in ``round_``."""
        self.file(self._round(arm, round_, "adopted")).write(model, {"dice": dice})

    def load_adopted(self, arm: str, round_: int) -> tuple[State, float]:
        """The model adopted in ``round_`` and its validation Dice."""
        state, meta = self.file(self._round(arm, round_, "adopted")).read()
        return state, meta["dice"]

    def save_final(self, arm: str, model: State, dice: float) -> None:
        """Keeps the model that the gate chose after the last round."""
        self.file(self._final(arm)).write(model, {"dice": dice})

    def adopted(self, arm: str) -> tuple[State, float]:
        """The model that this site would deploy, and its validation Dice.

        Raises:
            OmniFedError: OF514 if the arm has not been trained here.
        """
        if self._final(arm).is_file():
            state, meta = self.file(self._final(arm)).read()
            return state, meta["dice"]
        last = self.last_round(arm)
        if last is None:
            raise OmniFedError(
                "OF514",
                "A site deploys only what it has trained and adopted.",
                seen=arm,
                remedy="Run at least one round of this arm at this site first.",
            )
        _, meta = self.file(self._round(arm, last, "round")).read()
        return self.load_adopted(arm, meta["adopted_round"])

    def last_model(self, arm: str) -> State:
        """The site's student after its last round; empty before any."""
        last = self.last_round(arm)
        return {} if last is None else strip_prefix("model", self.file(self._round(arm, last, "round")).read()[0])

    def _final(self, arm: str) -> Path:
        return self.own / "arms" / arm / f"final{SEALED}"

    # Evaluations ------------------------------------------------------------------------------------------------

    def _evaluation(self, arm: str, which: str, split: str) -> Path:
        return self.own / "arms" / arm / f"cases-{which}-{split}{SEALED}"

    def save_evaluation(self, arm: str, which: str, split: str, masks: np.ndarray, values: np.ndarray) -> None:
        """Keeps predicted masks (N, H, W) and scores (N, classes - 1, metrics) of single cases: they never leave."""
        self.file(self._evaluation(arm, which, split)).write({"masks": masks, "values": values}, {})

    def load_evaluation(self, arm: str, which: str, split: str) -> tuple[np.ndarray, np.ndarray]:
        """What :meth:`save_evaluation` kept."""
        state, _ = self.file(self._evaluation(arm, which, split)).read()
        return state["masks"], state["values"]

    def fit_checkpoint(self, arm: str, round_: int) -> Path:
        """Where the training loop keeps its place within a round."""
        return self._round(arm, round_, "fit")

    # Searches ---------------------------------------------------------------------------------------------------

    def _anchor(self, arm: str, group: str) -> Path:
        return self.own / "arms" / arm / f"anchor-{group}{SEALED}"

    def save_anchor(self, arm: str, group: str, ids: Sequence[str], dice: np.ndarray) -> None:
        """Keeps the anchor's Dice (N,) of single cases, by case id: they never leave."""
        self.file(self._anchor(arm, group)).write({"dice": dice}, {"ids": list(ids)})

    def load_anchor(self, arm: str, group: str, ids: Sequence[str]) -> np.ndarray | None:
        """What :meth:`save_anchor` kept of these very cases; None if it is not there or damaged."""
        try:
            state, meta = self.file(self._anchor(arm, group)).read()
        except OmniFedError:
            return None
        return state["dice"] if meta["ids"] == list(ids) else None

    def measurement(self, about: str) -> Path:
        """File of a measurement on this site's device; ``about`` is all that it depends on. For all campaigns."""
        return self.folder / "bench" / f"{hashlib.sha256(about.encode()).hexdigest()[:24]}.json"

    # The teacher ------------------------------------------------------------------------------------------------

    def teacher_folder(self, spec: TeacherSpec) -> Path:
        """Folder of one teacher: the same specification finds the same teacher again."""
        # Whoever is not public keeps the name from before there was that word: teaching again would take hours.
        about = spec.model_dump_json(exclude=None if spec.public else {"public"})
        digest = hashlib.sha256(about.encode()).hexdigest()[:16]
        return self.folder / "teachers" / f"{spec.kind}-{digest}"


def _round_in(path: Path) -> int:
    """The round at the end of a file's name."""
    return int(path.stem.rpartition("-")[2])
