"""Sites of a private round: the toy's arithmetic behind the real exchanges, identities and state folders."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
import toy_sites

from omnifed.errors import OmniFedError
from omnifed.federation.replies import FailedReply, Reply
from omnifed.federation.tasks import FitTask, HelloTask, PrivateTask, Task, UnmaskTask
from omnifed.states import State
from omnifed.trust.authority import admit, found
from omnifed.trust.enrolment import enrol, join
from omnifed.trust.identity import CoordinatorIdentity, SiteIdentity
from omnifed_client import secure
from omnifed_client.store import SiteStore


def federation(folder: Path, names: Collection[str]) -> tuple[CoordinatorIdentity, dict[str, SiteIdentity]]:
    """A coordinator and its sites, all of which know each other."""
    coordinator = found(folder / "coordinator", "test", "127.0.0.1:8000")
    sites = {}
    for name in names:
        own = folder / name / "identity"
        sites[name] = join(own, admit(folder / "coordinator", enrol(own, name)))
    for identity in sites.values():
        identity.accept(coordinator.signed_roster())
    return coordinator, sites


class Masked(toy_sites.Drift):
    """A site whose update stays there.

    Args:
        folder: its state.
        identity: as joined.
        away: kinds of tasks, with ``KIND.aN`` for one attempt alone, that it never answers.
    """

    def __init__(self, folder: Path, identity: SiteIdentity, away: Collection[str] = (), faults=None) -> None:
        super().__init__(identity.site, faults)
        self.identity, self.away, self.root = identity, set(away), folder
        self.asked: list[str] = []
        self.trained = 0

    def execute(self, task: Task, state: State) -> tuple[Reply, State]:
        if isinstance(task, HelloTask):
            return super().execute(task, state)
        assert isinstance(task, FitTask | PrivateTask)
        self.asked.append(f"{task.kind}.a{task.attempt}")
        if {task.kind, f"{task.kind}.a{task.attempt}"} & self.away:
            raise ValueError("away")
        store = SiteStore(self.root / self.site, task.campaign)
        done = store.finished(task)
        if done is not None:
            return done
        try:
            if isinstance(task, FitTask):
                reply, arrays = secure.fit(task, state, store, self.identity, lambda: self._train(task, state))
            else:
                reply, arrays = secure.answer(task, store, self.identity)
        except OmniFedError as error:
            return FailedReply(id=task.id, site=self.site, code=error.code, rule=error.rule), {}
        store.finish(task, reply, arrays)
        if isinstance(task, UnmaskTask):
            secure.finished(task, store)
        return reply, arrays

    def _train(self, task: FitTask, state: State) -> tuple[Reply, State]:
        self.trained += 1
        return drift(self.site, task, state)


def drift(site: str, task: Task, state: State) -> tuple[Reply, State]:
    """The toy's step, a hundredth as long: of the length of a real one."""
    reply, upload = toy_sites.Drift(site).execute(task, state)
    return reply, {
        key: np.asarray(state[key] + 0.01 * (value - state[key]), value.dtype) if value.dtype.kind == "f" else value
        for key, value in upload.items()
    }
