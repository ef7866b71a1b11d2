"""One exchange of a task pool: tasks to some sites, one at a time each, and an arrival for each, come what may."""

from __future__ import annotations

import logging
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from omnifed.errors import OmniFedError
from omnifed.federation.replies import FailedReply
from omnifed.federation.tasks import Task
from omnifed.states import State
from omnifed.transport.arrival import Arrival, check, miss
from omnifed.transport.flower_compat import ConfigRecord, ErrorCode, Message, reply_to
from omnifed.transport.link import Link
from omnifed.transport.records import Packed, pack, size_of

log = logging.getLogger("omnifed.transport")

CLOCK = "clock"
"""Record that a grid with a virtual clock adds to a reply."""
LATE, LOST, AWAY = "OF502", "OF506", "OF501"
Tasks = Mapping[str, tuple[Task, State]]
"""Task and state by site."""
More = Callable[[Arrival], Tasks]
"""Further tasks, after an arrival."""


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
        more: see ``run``.
    """

    def __init__(
        self, pool: Link, tasks: Tasks, deadline_s: float | None = None, needed: int = 0, more: More | None = None
    ) -> None:
        self.pool, self.deadline_s, self.needed, self.more = pool, deadline_s, needed, more
        # Of the task that a site has now:
        self.open: dict[str, tuple[Task, Packed]] = {}
        self.tries: Counter[str] = Counter()
        self.bytes_down: Counter[str] = Counter()
        self.away: dict[str, float] = {}
        self.misses: dict[str, tuple[str, str]] = {}
        # Of all tasks:
        self.sent: dict[str, Sent] = {}
        self.asked: Counter[tuple[str, str]] = Counter()
        self.seconds: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
        self.answered = 0
        self.moved = time.monotonic()
        self._take(tasks)

    def arrivals(self) -> Iterator[Arrival]:
        """One a task: replies as they come, then the misses; with ``more`` each miss as soon as it is certain."""
        while self.open:
            self._post()
            if given_up := self._given_up():
                for missed in given_up:
                    yield from self._close(missed)
                continue
            messages, moved = self.pool.pull(list(self.sent))
            for message in messages:
                entry = self.sent.pop(reply_to(message), None)
                if entry and (arrival := self._arrival(message, entry)):
                    self.answered += not isinstance(arrival.reply, FailedReply)
                    self.moved = time.monotonic()
                    self.pool.on_site(arrival.site, "idle", {})
                    yield from self._close(arrival)
            self._look_after()
            if not moved and self.open:
                time.sleep(self.pool.poll_s)

    def _take(self, tasks: Tasks) -> None:
        """Opens tasks of sites that have none."""
        packed: dict[int, Packed] = {}
        for site, (task, state) in tasks.items():
            if site in self.open:
                raise ValueError(f"{site} has a task already")
            if id(state) not in packed:
                packed[id(state)] = pack(state)
            self.open[site] = task, packed[id(state)]
            self.tries[site] = self.bytes_down[site] = 0
            self.away[site] = float("-inf")
            self.misses.pop(site, None)
            self.asked[_sort(task)] += 1

    def _close(self, arrival: Arrival) -> Iterator[Arrival]:
        del self.open[arrival.site]
        yield arrival
        if self.more is not None:
            self._take(self.more(arrival))

    def _given_up(self) -> list[Arrival]:
        """Misses of the sites that are waited for no longer.

        Without ``more`` that is at the end, for all: while others work, a site that is away may still come. With it,
        what one site has lost is asked of another at once.
        """
        working = {entry.site for entry in self.sent.values()}
        idle = [site for site in self.open if site not in working]
        if self.more is None:
            idle = [] if working or self._may_come(idle) else idle
        else:
            idle = [site for site in idle if not self._may_come([site])]
        found = [(site, self.misses.get(site) or self._why_away(site)) for site in idle]
        return [miss(site, self.open[site][0].id, *why, down=self.bytes_down[site]) for site, why in found]

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

    def _may_come(self, sites: Iterable[str]) -> bool:
        """Whether one of the sites, which are away, is worth waiting for."""
        patience, now = self.pool.patience, time.monotonic()
        hopeful = [site for site in sites if self.tries[site] < patience.tries]
        if any(now - self.away[site] < patience.join_s for site in hopeful):
            return True
        missing = not self.sent and self.answered < self.needed
        return bool(hopeful) and missing and now - self.moved < patience.wait_s

    def _arrival(self, message: Message, entry: Sent) -> Arrival | None:
        """The arrival that a message means; None if the task is to be sent again."""
        site, task = entry.site, self.open[entry.site][0]
        if message.has_error():
            if message.error.code == ErrorCode.MESSAGE_UNAVAILABLE and self.tries[site] >= self.pool.patience.tries:
                return miss(site, task.id, LATE, _LATE_RULE, down=self.bytes_down[site])
            self._lost(
                site, entry.node, f"A node must stay connected while it works (transport code {message.error.code})."
            )
            return None
        up = size_of(message.content)
        try:
            reply, state = self.pool.read(message)
            check(reply, state, site, task)
        except OmniFedError as error:
            log.warning("%s: %s", site, error)
            return miss(site, task.id, error.code, error.rule, down=self.bytes_down[site], up=up)
        seconds = time.monotonic() - entry.at
        self.seconds[_sort(task)].append(seconds)
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
        return self.pool.pace.limit(task, self.seconds[_sort(task)], self.asked[_sort(task)])

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


def _sort(task: Task) -> tuple[str, str]:
    """Tasks whose times may be compared."""
    return task.kind, task.arm
