"""The coordinator's line to the sites: who is there, and single messages to them and from them."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Iterable

from omnifed.errors import OmniFedError
from omnifed.federation.replies import FailedReply, HelloReply, Reply
from omnifed.federation.tasks import HelloTask, Task
from omnifed.states import State
from omnifed.transport.apps import ROUTES
from omnifed.transport.calls import Calls
from omnifed.transport.coordinator_seal import CoordinatorSeal
from omnifed.transport.flower_compat import Grid, Message, identify, reply_to
from omnifed.transport.patience import Pace, Patience
from omnifed.transport.records import Packed, pack, reply_of, size_of, to_record
from omnifed.transport.roster import OnSite, Roster
from omnifed.transport.sealed import Posted
from omnifed.trust.envelope import ANYONE

log = logging.getLogger("omnifed.transport")
AT_ONCE = 8
"""Messages that are asked for in one request."""
NO_DEADLINE_S = 7 * 24 * 3600.0
"""Time to live of a message without a deadline; Flower's own default (12 h) would cut a long fit of a teacher."""


class Link:
    """Who is connected, and messages to and from them, over any Flower grid.

    Args:
        grid: in process, Ray, or the one that a deployed ServerApp gets.
        poll_s: seconds between two looks at a grid that has nothing new.
        hello_s: seconds that a node has to introduce itself before :meth:`hello` goes on without it; it may still do so
            later.
        patience: how long to wait for whom.
        pace: derives deadlines for tasks that are sent without one; None: no deadline.
        on_site: told of each site that joins, works, is idle, is lost or refused.
        seal: signs what is sent and checks what comes; None where messages have no envelopes.
    """

    def __init__(
        self,
        grid: Grid,
        *,
        poll_s: float = 0.25,
        hello_s: float = 60.0,
        patience: Patience | None = None,
        pace: Pace | None = None,
        on_site: OnSite = lambda site, state, fields: None,
        seal: CoordinatorSeal | None = None,
    ) -> None:
        identify()
        self.grid, self.poll_s, self.hello_s = grid, poll_s, hello_s
        self.patience, self.pace, self.on_site = patience or Patience(), pace, on_site
        self.roster, self.seal = Roster(on_site), seal
        self._posted: dict[str, Posted] = {}
        self._greetings: Calls[int] = Calls(hello_s / 6)
        self._pings: Calls[str] = Calls(self.patience.ping_s)
        self.free: set[str] = set()
        self.owing: dict[str, tuple[int, str]] = {}
        self._rolled = 0.0

    def hello(self) -> dict[str, HelloReply]:
        """Greets every node that has not introduced itself, and forgets those that are gone.

        Returns:
            What each connected site has, by registered name.
        """
        self._roll_call()
        # A node that is busy, or that a cut has kept from its greeting, holds up the others once.
        while (moved := self.pull(())[1]) or self._greetings.fresh(self.hello_s):
            if not moved:
                time.sleep(self.poll_s)
            if time.monotonic() - self._rolled >= max(self.poll_s, self.patience.roll_call_s):
                self._roll_call()
        return self.roster.hellos

    def wait_for(self, sites: Iterable[str], needed: int, seconds: float) -> dict[str, HelloReply]:
        """Waits until all ``sites`` are connected, or ``needed`` of them and nobody new for ``join_s``.

        Returns:
            What each connected site has after at most ``seconds``; fewer than ``needed`` if they did not come.
        """
        wanted, started = set(sites), time.monotonic()
        found, since = self.hello(), started
        while not wanted <= set(found) and (now := time.monotonic()) - started < seconds:
            if len(wanted & set(found)) >= needed and now - since >= self.patience.join_s:
                break
            time.sleep(max(self.poll_s, self.patience.roll_call_s))
            before, found = set(found), self.hello()
            since = time.monotonic() if set(found) - before else since
        return found

    def node_of(self, site: str) -> int | None:
        """The node that speaks for a site now, from a roll call that is recent enough; None if it is away."""
        if time.monotonic() - self._rolled >= self.patience.roll_call_s:
            self._roll_call()
        return self.roster.node_of(site)

    def post(self, node: int, task: Task, state: Packed, *, deadline_s: float | None = None) -> tuple[str, int]:
        """Pushes one message.

        Returns:
            Its id, "" if the node cannot be reached, and its bytes.
        """
        record = to_record(task, state, protocol=self.roster.protocol_of(node))
        posted = self.seal.seal(record, task, state, self._site_of(node)) if self.seal else None
        group = task.id.rpartition(".")[0]
        # Between machines the deadline is kept here alone: a message that expires at the SuperLink is reported as lost,
        # and a reply would be judged by the clock of its site.
        limit = NO_DEADLINE_S if self.patience.ping_s else deadline_s or NO_DEADLINE_S
        message = Message(record, node, ROUTES[task.kind], ttl=limit, group_id=group)
        ids = list(self.grid.push_messages([message]))
        message_id = (ids[0] or "") if ids else ""
        if posted and message_id:
            self._posted[message_id] = posted
        return message_id, size_of(record)

    def read(self, message: Message) -> tuple[Reply, State]:
        """The reply in a message, once its envelope, where there are envelopes, is found true.

        Raises:
            OmniFedError: OF818 if the site that was asked has not signed this answer to this task, OF503 if it is no
                reply.
        """
        if self.seal is None:
            return reply_of(message.content)
        return self.seal.open(message.content, self._posted.pop(reply_to(message), None))

    def ping(self, node: int, message_id: str) -> None:
        """Asks a node that is at work on ``message_id`` for an answer that it gives when it is free."""
        if self._pings.due(message_id):
            self._pings.add(message_id, self.post(node, _greeting(), pack({}))[0])

    def is_busy(self, site: str, node: int) -> bool:
        """Whether a site that was late is still at work on what it was asked then, so far as is known."""
        owed = self.owing.get(site)
        if owed is None:
            return False
        if owed[0] != node or owed[1] in self.free:
            self.free.discard(owed[1])
            del self.owing[site]
            return False
        self.ping(*owed)
        return True

    def pull(self, wanted: Iterable[str]) -> tuple[list[Message], bool]:
        """What has come of ``wanted``; answers to greetings and pings are taken on the way.

        Returns:
            The messages, and whether anything at all has come.
        """
        found, rest = self._look([*self._greetings.to, *self._pings.to, *wanted]), []
        for message in found:
            message_id = reply_to(message)
            lost = message.has_error()
            if lost:
                self._posted.pop(message_id, None)
            if (node := self._greetings.to.get(message_id)) is not None:
                self._greetings.answered(message_id, lost=lost, again=not lost and not self._introduce(node, message))
            elif (target := self._pings.answered(message_id, lost=lost)) is not None:
                if not lost:
                    self.free.add(target)
            else:
                rest.append(message)
        return rest, bool(found)

    def _look(self, ids: list[str]) -> list[Message]:
        """What has come of the first ids of which anything has come: never all sites' weights at once in memory."""
        for start in range(0, len(ids), AT_ONCE):
            if found := list(self.grid.pull_messages(ids[start : start + AT_ONCE])):
                return found
        return []

    def _roll_call(self) -> None:
        self._rolled = time.monotonic()
        for node in self.roster.strangers(self.grid.get_node_ids()):
            if self._greetings.due(node):
                self._greetings.add(node, self.post(node, _greeting(), pack({}))[0])

    def _introduce(self, node: int, message: Message) -> bool:
        """Takes the answer to a greeting; whether the node needs no other one."""
        try:
            reply = self.read(message)[0]
        except OmniFedError as error:
            log.warning("node %s is no site of ours: %s", node, error)
            if self.seal and (site := self.seal.known_sender(message.content)):
                self.roster.introduce(node, FailedReply(id="unknown", site=site, code=error.code, rule=error.rule))
            return False
        self.roster.introduce(node, reply)
        return isinstance(reply, HelloReply)

    def _site_of(self, node: int) -> str:
        hello = self.roster.nodes.get(node)
        return hello.site if hello else ANYONE


def _greeting() -> HelloTask:
    return HelloTask(id=f"hello.{secrets.token_hex(6)}")
