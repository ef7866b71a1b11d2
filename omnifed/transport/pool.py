"""The coordinator's hand: sends tasks to sites by name and yields what comes back, whatever comes back.

A site that fails, answers NaN or not in time is an :class:`Arrival` with a ``FailedReply``; nothing that a site does
ends the loop. A task that is lost with its node is sent again, with the same id, to the node that speaks for the site
now: the site answers what it has finished from its store, so nothing is computed or counted twice.
"""

from __future__ import annotations

from collections.abc import Iterator

from omnifed.transport.arrival import Arrival as Arrival
from omnifed.transport.exchange import CLOCK as CLOCK
from omnifed.transport.exchange import LATE as LATE
from omnifed.transport.exchange import Exchange, More, Tasks
from omnifed.transport.link import Link


class TaskPool(Link):
    """Sends tasks and collects replies over any Flower grid."""

    def run(
        self, tasks: Tasks, *, deadline_s: float | None = None, needed: int = 0, more: More | None = None
    ) -> Iterator[Arrival]:
        """Sends one task to each named site and yields replies in order of arrival, one for each task.

        Args:
            tasks: task and state by site; sites that share a state object share its packed bytes.
            deadline_s: seconds from sending after which a reply is late; None takes the pace's, if there is one.
            needed: replies for which sites that are away are waited for, as the patience says.
            more: called after each arrival, when whoever iterates has seen it: tasks for sites that have none now, so
                that a fast site never waits for a slow one. A miss is then yielded as soon as it is certain, not at
                the end: a task that one site has lost can be asked of another.

        Yields:
            One :class:`Arrival` a task. Misses are ``FailedReply`` with OF501 (not connected), OF502 (late), OF503 or
            OF504 (not an answer to the task), OF505 (NaN or infinity), OF506 (node lost), or the site's own code.

        Raises:
            ValueError: if ``more`` gives a site a second task at a time.
        """
        if any(self.node_of(site) is None for site in tasks):
            self.hello()
        if self.owing:
            self.pull(())
        yield from Exchange(self, tasks, deadline_s, needed, more).arrivals()
