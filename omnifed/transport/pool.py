"""The coordinator's hand: sends tasks to sites by name and yields what comes back, whatever comes back.

A site that fails, answers NaN or not in time is an :class:`Arrival` with a ``FailedReply``; nothing that a site does
ends the loop.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from omnifed.errors import OmniFedError
from omnifed.federation.tasks import PROTOCOL, FailedReply, HelloReply, HelloTask, Reply, Task
from omnifed.states import State
from omnifed.transport.apps import ROUTES
from omnifed.transport.flower_compat import ConfigRecord, ErrorCode, Grid, Message, identify, reply_to
from omnifed.transport.records import Packed, pack, reply_of, size_of, to_record

log = logging.getLogger("omnifed.transport")

CLOCK = "clock"
"""Record that a grid with a virtual clock adds to a reply."""
NO_DEADLINE_S = 7 * 24 * 3600.0
"""Time to live of a message without a deadline; Flower's own default (12 h) would cut a long fit of a teacher."""
LATE = "OF502"


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


class TaskPool:
    """Sends tasks and collects replies over any Flower grid.

    Sites are known by their registered name alone: a restarted node has another id and introduces itself again.

    Args:
        grid: in process, Ray, or the one that a deployed ServerApp gets.
        poll_s: seconds between two looks at a grid that has nothing new.
        hello_s: seconds that a node has to introduce itself.
    """

    def __init__(self, grid: Grid, *, poll_s: float = 0.25, hello_s: float = 60.0) -> None:
        identify()
        self.grid, self.poll_s, self.hello_s = grid, poll_s, hello_s
        self._hellos: dict[int, HelloReply] = {}
        self._failed: dict[str, FailedReply] = {}

    def hello(self) -> dict[str, HelloReply]:
        """Asks every node that has not introduced itself, and forgets those that are gone.

        Returns:
            What each connected site has, by registered name.

        Raises:
            OmniFedError: OF508 if two connected nodes claim one name.
        """
        alive = list(self.grid.get_node_ids())
        self._hellos = {node: hello for node, hello in self._hellos.items() if node in alive}
        task = HelloTask(id=f"hello.{secrets.token_hex(6)}")
        self._failed = {}
        strangers = {node: (task, pack({})) for node in alive if node not in self._hellos}
        for node, arrival in self._exchange(strangers, self.hello_s):
            if isinstance(arrival.reply, HelloReply):
                self._hellos[node] = arrival.reply
            elif isinstance(arrival.reply, FailedReply):
                self._failed[arrival.reply.site] = arrival.reply
                log.warning("a node did not introduce itself: %s: %s", arrival.reply.code, arrival.reply.rule)
        names = [hello.site for hello in self._hellos.values()]
        if len(set(names)) < len(names):
            twice = sorted({name for name in names if names.count(name) > 1})
            raise OmniFedError(
                "OF508",
                "Each site must have its own registered name.",
                seen=", ".join(twice),
                remedy="Stop the second node, or give it its own name in its site.toml.",
            )
        return {hello.site: hello for hello in self._hellos.values()}

    def run(self, tasks: Mapping[str, tuple[Task, State]], *, deadline_s: float | None = None) -> Iterator[Arrival]:
        """Sends one task to each named site and yields replies in order of arrival, one for each site.

        Args:
            tasks: task and state by site; sites that share a state object share its packed bytes.
            deadline_s: seconds from now after which a reply is late; None waits for as long as the node lives.

        Yields:
            One :class:`Arrival` a site. Misses are ``FailedReply`` with OF501 (not connected), OF502 (late), OF503 or
            OF504 (not an answer to the task), OF505 (NaN or infinity), OF506 (node lost), or the site's own code.
        """
        alive = set(self.grid.get_node_ids())
        known = {hello.site: node for node, hello in self._hellos.items() if node in alive}
        if not set(tasks) <= set(known):
            self.hello()
            known = {hello.site: node for node, hello in self._hellos.items()}
        for site in tasks:
            if site not in known:
                failed = self._failed.get(site)
                code, rule = (
                    ("OF501", "A site that is asked must be connected.")
                    if failed is None
                    else (failed.code, failed.rule)
                )
                yield _miss(site, tasks[site][0].id, code, rule)
        packed: dict[int, Packed] = {}
        messages: dict[int, tuple[Task, Packed]] = {}
        for site, (task, state) in tasks.items():
            if site in known:
                if id(state) not in packed:
                    packed[id(state)] = pack(state)
                messages[known[site]] = (task, packed[id(state)])
        del packed
        for _, arrival in self._exchange(messages, deadline_s):
            yield arrival

    def _exchange(
        self, tasks: Mapping[int, tuple[Task, Packed]], deadline_s: float | None
    ) -> Iterator[tuple[int, Arrival]]:
        sent: dict[str, tuple[int, Task, int]] = {}
        started = time.monotonic()
        for node, (task, state) in tasks.items():
            record = to_record(task, state)
            message = Message(
                record, node, ROUTES[task.kind], ttl=deadline_s or NO_DEADLINE_S, group_id=task.id.rpartition(".")[0]
            )
            ids = list(self.grid.push_messages([message]))
            if ids and ids[0]:
                sent[ids[0]] = (node, task, size_of(record))
            else:
                yield node, _miss(self._name(node), task.id, "OF506", "A task must reach its site.")
        while sent:
            replies = list(self.grid.pull_messages(list(sent)))
            for message in replies:
                entry = sent.pop(reply_to(message), None)
                if entry:
                    node, task, down = entry
                    yield node, self._arrival(message, self._name(node), task, down)
            if replies:
                continue
            if deadline_s is not None and time.monotonic() - started >= deadline_s:
                break
            time.sleep(self.poll_s)
        for node, task, down in sent.values():
            yield node, _late(self._name(node), task, down)

    def _name(self, node: int) -> str:
        return self._hellos[node].site if node in self._hellos else ""

    def _arrival(self, message: Message, site: str, task: Task, down: int) -> Arrival:
        if message.has_error():
            if message.error.code == ErrorCode.MESSAGE_UNAVAILABLE:
                return _late(site, task, down)
            rule = f"A node must stay connected while it works (transport code {message.error.code})."
            return _miss(site, task.id, "OF506", rule, down=down)
        up = size_of(message.content)
        try:
            reply, state = reply_of(message.content)
            _check(reply, state, site, task)
        except OmniFedError as error:
            log.warning("%s: %s", site, error)
            return _miss(site, task.id, error.code, error.rule, down=down, up=up)
        clock = message.content.get(CLOCK)
        virtual = clock.get("virtual_seconds") if isinstance(clock, ConfigRecord) else None
        return Arrival(site or reply.site, reply, state, up, down, virtual if isinstance(virtual, float) else None)


def finite(state: State) -> bool:
    """Whether no array holds NaN or infinity."""
    return all(np.isfinite(value).all() for value in state.values() if value.dtype.kind == "f")


def _check(reply: Reply, state: State, site: str, task: Task) -> None:
    if isinstance(reply, FailedReply):
        return
    answers = reply.id == task.id and reply.kind == task.kind and reply.protocol == PROTOCOL
    if not answers or (site and reply.site != site):
        raise OmniFedError(
            "OF504",
            "A reply must answer the task that was sent: same id, kind, site and protocol.",
            seen=f"asked {task.kind} {task.id} of {site}, got {reply.kind} {reply.id} from {reply.site}",
            remedy="Install the same omnifed release at the coordinator and at the site.",
        )
    if not finite(state):
        raise OmniFedError(
            "OF505",
            "Figures and weights that leave a site must be finite numbers.",
            seen=site,
            remedy="Look at the site's loss; lower the learning rate or check its images.",
        )


def _late(site: str, task: Task, down: int) -> Arrival:
    return _miss(site, task.id, LATE, "A reply must arrive before the round's deadline.", down=down)


def _miss(site: str, task_id: str, code: str, rule: str, *, down: int = 0, up: int = 0) -> Arrival:
    return Arrival(site, FailedReply(id=task_id, site=site, code=code, rule=rule), {}, up, down)
