"""What executes a task at a site. The same object in process, under Ray and on a deployed federation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from omnifed.federation.replies import Reply
from omnifed.federation.tasks import Task
from omnifed.states import State as State


class Executor(Protocol):
    """A site's side of every task.

    It answers a failure with a :class:`~omnifed.federation.replies.FailedReply` instead of raising; the transport
    survives one that raises all the same.
    """

    def execute(self, task: Task, state: State) -> tuple[Reply, State]:
        """Does one task.

        Args:
            task: what to do.
            state: arrays that travel with it; READ-ONLY views of the message, to be copied before they are changed.

        Returns:
            The reply and the arrays that travel with it.
        """


ExecutorOf = Callable[[str], Executor]
"""Registered name of a site to its executor."""
