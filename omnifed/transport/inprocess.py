"""A Flower grid in the calling process: the same applications, messages and failures, one site after the other.

Messages are deep-copied on both ways (their bytes are immutable and shared), so no site can touch another's arrays or
the coordinator's. Sites run in the order in which their messages were pushed, when they are pulled: one reply is in
memory at a time, and a run is the same every time.
"""

from __future__ import annotations

import copy
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from omnifed.errors import OmniFedError
from omnifed.federation.tasks import TASK, Task
from omnifed.transport.flower_compat import (
    ClientApp,
    ConfigRecord,
    Context,
    Error,
    ErrorCode,
    Grid,
    Message,
    RecordDict,
    Run,
    identify,
    set_message_id,
)
from omnifed.transport.pool import CLOCK
from omnifed.transport.records import body_of, size_of


@dataclass(frozen=True)
class Delivery:
    """One message on its way to a site.

    Attributes:
        site: registered name.
        task: what it asks; None for a message that is not ours.
        attempt: how often this task was sent before, from 0.
        bytes_down: its size.
    """

    site: str
    task: Task | None
    attempt: int
    bytes_down: int


class Schedule(Protocol):
    """The virtual clock of a grid."""

    def drops_out(self, delivery: Delivery) -> bool:
        """Whether the site is gone before it works."""

    def seconds(self, delivery: Delivery, bytes_up: int, worked_s: float) -> float:
        """Virtual seconds from sending to arrival; ``worked_s`` is what the work took here."""


class Measured:
    """The default clock: nobody drops out, and a site takes the seconds that its work took."""

    def drops_out(self, delivery: Delivery) -> bool:
        """Never."""
        return False

    def seconds(self, delivery: Delivery, bytes_up: int, worked_s: float) -> float:
        """``worked_s``."""
        return worked_s


class InProcessGrid(Grid):
    """Runs a ClientApp for many sites in this process.

    A reply whose virtual seconds exceed the message's time to live comes back as Flower's "message unavailable", a
    site that drops out as "node unavailable": as on a deployed federation.

    Args:
        app: application of all sites.
        sites: registered names, in the order of their node ids from 1.
        schedule: virtual clock.
    """

    def __init__(self, app: ClientApp, sites: Sequence[str], *, schedule: Schedule | None = None) -> None:
        identify()
        self.app, self.sites, self.schedule = app, tuple(sites), schedule or Measured()
        self._run = Run.create_empty(1)
        self._contexts = {
            node: Context(1, node, {"site": site}, RecordDict(), {}) for node, site in enumerate(self.sites, 1)
        }
        self._pending: dict[str, tuple[Message, Delivery]] = {}
        self._sent: Counter[str] = Counter()
        self._count = 0

    def set_run(self, run: Run) -> None:
        """Sets the run."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run."""
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Flower's deprecated way to make a message."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        """Ids of all sites."""
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Takes messages; nothing runs yet."""
        ids = []
        for message in messages:
            self._count += 1
            message_id = f"m{self._count}"
            own = copy.deepcopy(message)
            set_message_id(own, message_id)
            self._pending[message_id] = own, self._delivery(own)
            self._start(message_id)
            ids.append(message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Runs the earliest of the named messages that is still waiting and gives its reply; none if none waits."""
        wanted = set(message_ids)
        message_id = next((i for i in self._pending if i in wanted), None)
        if message_id is None:
            return []
        message, delivery = self._pending.pop(message_id)
        return [self._deliver(message_id, message, delivery)]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Pushes and pulls until all is answered, for Flower's own strategies."""
        ids = self.push_messages(messages)
        return [self.pull_messages([message_id])[0] for message_id in ids]

    def _delivery(self, message: Message) -> Delivery:
        site = str(self._contexts[message.metadata.dst_node_id].node_config["site"])
        try:
            task: Task | None = body_of(message.content, TASK)
        except OmniFedError:
            task = None
        attempt = 0
        if task is not None:
            attempt = self._sent[task.id]
            self._sent[task.id] += 1
        return Delivery(site, task, attempt, size_of(message.content))

    def _deliver(self, message_id: str, message: Message, delivery: Delivery) -> Message:
        if self.schedule.drops_out(delivery):
            return Message(Error(ErrorCode.NODE_UNAVAILABLE, "dropped out"), reply_to=message)
        try:
            reply, worked = self._work(message_id, message)
        except Exception as error:
            return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, type(error).__name__), reply_to=message)
        if reply.has_error():
            return reply
        seconds = self.schedule.seconds(delivery, size_of(reply.content), worked)
        if seconds > message.metadata.ttl:
            return Message(Error(ErrorCode.MESSAGE_UNAVAILABLE, "late"), reply_to=message)
        reply = copy.deepcopy(reply)
        reply.content[CLOCK] = ConfigRecord({"virtual_seconds": float(seconds)})
        return reply

    def _start(self, message_id: str) -> None:
        """Hook: called when a message is taken."""

    def _work(self, message_id: str, message: Message) -> tuple[Message, float]:
        """Runs the application; the reply and the seconds that it took."""
        started = time.perf_counter()
        reply = self.app(message, self._contexts[message.metadata.dst_node_id])
        return reply, time.perf_counter() - started
