"""What comes back from one site: a reply that answers its task, or a miss."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np

from omnifed.errors import OmniFedError
from omnifed.federation.protocol import MIN_PROTOCOL
from omnifed.federation.replies import FailedReply, Reply
from omnifed.federation.tasks import Task
from omnifed.states import State


@dataclass(frozen=True)
class Arrival:
    """What came back from one site.

    Attributes:
        site: registered name.
        reply: the reply; a ``FailedReply`` for every kind of miss.
        state: arrays of the reply, read-only views; empty for a miss.
        bytes_up, bytes_down: bytes from and to the site.
        virtual_seconds: from sending to arrival on a virtual clock; None on a deployed federation.
    """

    site: str
    reply: Reply
    state: State
    bytes_up: int = 0
    bytes_down: int = 0
    virtual_seconds: float | None = None


def finite(state: State) -> bool:
    """Whether no array holds NaN or infinity."""
    return all(np.isfinite(value).all() for value in state.values() if value.dtype.kind == "f")


def _finite_figures(reply: Reply) -> bool:
    # An honest site cannot send such a figure; one that does must not spoil the scales or the records of all.
    try:
        json.dumps(reply.model_dump(), allow_nan=False)
    except ValueError:
        return False
    return True


def check(reply: Reply, state: State, site: str, task: Task) -> None:
    """Refuses what is no answer to ``task``.

    Raises:
        OmniFedError: OF504 if it answers something else, OF505 for NaN or infinity.
    """
    if isinstance(reply, FailedReply):
        return
    answers = reply.id == task.id and reply.kind == task.kind and reply.protocol >= MIN_PROTOCOL
    if not answers or reply.site != site:
        raise OmniFedError(
            "OF504",
            "A reply must answer the task that was sent: same id, kind, site and protocol.",
            seen=f"asked {task.kind} {task.id} of {site}, got {reply.kind} {reply.id} from {reply.site}",
            remedy="Install the same omnifed release at the coordinator and at the site.",
        )
    if not (finite(state) and _finite_figures(reply)):
        raise OmniFedError(
            "OF505",
            "Figures and weights that leave a site must be finite numbers.",
            seen=site,
            remedy="Look at the site's loss; lower the learning rate or check its images.",
        )


def miss(site: str, task_id: str, code: str, rule: str, *, down: int = 0, up: int = 0) -> Arrival:
    """The arrival of a site that did not answer."""
    return Arrival(site, FailedReply(id=task_id, site=site, code=code, rule=rule), {}, up, down)
