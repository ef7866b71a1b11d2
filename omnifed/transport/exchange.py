"""One exchange of a task pool: a task to each of some sites, and one arrival from each of them, come what may."""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from omnifed.errors import OmniFedError
from omnifed.federation.tasks import MIN_PROTOCOL, FailedReply, Reply, Task
from omnifed.states import State
from omnifed.transport.flower_compat import ConfigRecord, ErrorCode, Message, reply_to
from omnifed.transport.link import Link
from omnifed.transport.records import Packed, pack, reply_of, size_of

log = logging.getLogger("omnifed.transport")

CLOCK = "clock"
"""Record that a grid with a virtual clock adds to a reply."""
LATE, LOST, AWAY = "OF502", "OF506", "OF501"


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


@dataclass
class Sent:
    """A message on its way: to whom, since when, when the node was last asked whether it is free, and whether it is."""

    site: str
    node: int
    bytes_down: int
    at: float
    pinged: float
    free: bool = False


class Exchange:
    """The tasks of one call of :meth:`~omnifed.transport.pool.TaskPool.run`.

    Args:
        pool: who posts and pulls.
        tasks: task and state by site.
        deadline_s: see ``run``.
        needed: see ``run``.
    """

    def __init__(
        self, pool: Link, tasks: Mapping[str, tuple[Task, State]], deadline_s: float | None, needed: int
    ) -> None:
        self.pool, self.deadline_s, self.needed = pool, deadline_s, needed
        self.asked = len(tasks)
        packed: dict[int, Packed] = {}
        self.open: dict[str, tuple[Task, Packed]] = {}
        for site, (task, state) in tasks.items():
            if id(state) not in packed:
                packed[id(state)] = pack(state)
            self.open[site] = task, packed[id(state)]
        self.sent: dict[str, Sent] = {}
        self.tries: Counter[str] = Counter()
        self.bytes_down: Counter[str] = Counter()
        self.away: dict[str, float] = dict.fromkeys(self.open, float("-inf"))
        self.misses: dict[str, tuple[str, str]] = {}
        self.seconds: list[float] = []
        self.answered = 0
        self.moved = time.monotonic()

    def arrivals(self) -> Iterator[Arrival]:
        """One a site: replies as they come, then the misses."""
        while True:
            self._post()
            if not self.sent and not self._somebody_may_come():
                break
            messages, moved = self.pool.pull(list(self.sent))
            for message in messages:
                entry = self.sent.pop(reply_to(message), None)
                if entry and (arrival := self._arrival(message, entry)):
                    del self.open[arrival.site]
                    self.answered += not isinstance(arrival.reply, FailedReply)
                    self.moved = time.monotonic()
                    self.pool.on_site(arrival.site, "idle", {})
                    yield arrival
            self._look_after()
            if not moved and (self.sent or self.open):
                time.sleep(self.pool.poll_s)
        for site, (task, _) in self.open.items():
            code, rule = self.misses.get(site) or self._why_away(site)
            yield _miss(site, task.id, code, rule, down=self.bytes_down[site])

    def _post(self) -> None:
        """Sends what is not on its way to the sites that are there."""
        busy = {entry.site for entry in self.sent.values()}
        for site, (task, state) in list(self.open.items()):
            if site in busy or self.tries[site] >= self.pool.patience.tries:
                continue
            node = self.pool.node_of(site)
            if node is None:
                continue
            if self.pool.is_busy(site, node):
                # It would cost the others a whole deadline again, each round. Free, it is asked at once.
                self.misses[site] = LATE, _BUSY_RULE
                continue
            self.tries[site] += 1
            self.away[site] = time.monotonic()
            try:
                message_id, size = self.pool.post(node, task, state, deadline_s=self.deadline_s)
            except OmniFedError as error:  # a site that is too old for what the task asks
                self.misses[site] = error.code, error.rule
                self.tries[site] = self.pool.patience.tries
                continue
            if message_id:
                now = time.monotonic()
                self.sent[message_id] = Sent(site, node, size, now, now)
                self.bytes_down[site] += size
                self.pool.on_site(site, "working", {"task": task.kind})
            else:
                self._lost(site, node, "A task must reach its site.")

    def _somebody_may_come(self) -> bool:
        """Whether a site that is away is worth waiting for, while nobody is at work."""
        patience, now = self.pool.patience, time.monotonic()
        hopeful = [site for site in self.open if self.tries[site] < patience.tries]
        if any(now - self.away[site] < patience.join_s for site in hopeful):
            return True
        return bool(hopeful) and self.answered < self.needed and now - self.moved < patience.wait_s

    def _arrival(self, message: Message, entry: Sent) -> Arrival | None:
        """The arrival that a message means; None if the task is to be sent again."""
        site, task = entry.site, self.open[entry.site][0]
        if message.has_error():
            if message.error.code == ErrorCode.MESSAGE_UNAVAILABLE and self.tries[site] >= self.pool.patience.tries:
                return _miss(site, task.id, LATE, _LATE_RULE, down=self.bytes_down[site])
            self._lost(
                site, entry.node, f"A node must stay connected while it works (transport code {message.error.code})."
            )
            return None
        up = size_of(message.content)
        try:
            reply, state = reply_of(message.content)
            _check(reply, state, site, task)
        except OmniFedError as error:
            log.warning("%s: %s", site, error)
            return _miss(site, task.id, error.code, error.rule, down=self.bytes_down[site], up=up)
        seconds = time.monotonic() - entry.at
        self.seconds.append(seconds)
        if self.pool.pace and not isinstance(reply, FailedReply):
            self.pool.pace.note(task, site, seconds)
        clock = message.content.get(CLOCK)
        virtual = clock.get("virtual_seconds") if isinstance(clock, ConfigRecord) else None
        virtual = virtual if isinstance(virtual, float) else None
        return Arrival(site, reply, state, up, self.bytes_down[site], virtual)

    def _look_after(self) -> None:
        """Gives up what is late, and sends again what is lost: with its node, or on its way back."""
        now = time.monotonic()
        for message_id, entry in list(self.sent.items()):
            site, node = entry.site, self.pool.node_of(entry.site)
            limit = self._limit(self.open[site][0])
            if limit is not None and now - entry.at >= limit:
                del self.sent[message_id]
                self.misses[site] = LATE, _LATE_RULE
                self.tries[site] = self.pool.patience.tries
                if self.pool.patience.ping_s:
                    self.pool.owing[site] = entry.node, message_id
                    self.pool.ping(entry.node, message_id)
                self.pool.on_site(site, "lost", {"code": LATE, "rule": _LATE_RULE})
            elif message_id in self.pool.free and not entry.free:
                entry.free = True  # its reply may have come between the two looks: look once more
            elif entry.free:
                self.pool.free.discard(message_id)
                del self.sent[message_id]
                self._lost(site, None, "A reply must not be lost on its way.")
            elif node != entry.node and self.pool.patience.join_s:
                del self.sent[message_id]
                self._lost(site, None, "A node must stay connected while it works.")
            elif self.pool.patience.ping_s and now - entry.pinged >= self.pool.patience.ping_s:
                entry.pinged = now
                self.pool.ping(entry.node, message_id)

    def _limit(self, task: Task) -> float | None:
        if self.deadline_s is not None or self.pool.pace is None:
            return self.deadline_s
        return self.pool.pace.limit(task, self.seconds, self.asked)

    def _lost(self, site: str, node: int | None, rule: str) -> None:
        """A task was lost; its site has some time to come back, as the same node or as another."""
        self.misses[site] = LOST, rule
        self.away[site] = time.monotonic()
        if node is not None and self.pool.patience.join_s:
            self.pool.roster.forget(node, LOST, rule)

    def _why_away(self, site: str) -> tuple[str, str]:
        failed = self.pool.roster.failed.get(site)
        return (AWAY, "A site that is asked must be connected.") if failed is None else (failed.code, failed.rule)


_LATE_RULE = "A reply must arrive before the round's deadline."
_BUSY_RULE = "A site that was late is asked again when it answers."


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


def _check(reply: Reply, state: State, site: str, task: Task) -> None:
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


def _miss(site: str, task_id: str, code: str, rule: str, *, down: int = 0, up: int = 0) -> Arrival:
    return Arrival(site, FailedReply(id=task_id, site=site, code=code, rule=rule), {}, up, down)
