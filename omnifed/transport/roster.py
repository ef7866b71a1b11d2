"""Who is connected: nodes, the sites that they speak for, and the protocol that both ends understand.

A Flower node id lives as long as its process. A site is known by its registered name alone, which its node tells when
it is greeted, so a restarted node is the same site again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

from omnifed.federation.protocol import MIN_PROTOCOL, PROTOCOL
from omnifed.federation.replies import FailedReply, HelloReply, Reply

log = logging.getLogger("omnifed.transport")

OnSite = Callable[[str, str, dict[str, Any]], None]
"""``on_site(site, state, fields)``; state is joined, working, idle, lost or refused."""


class Roster:
    """The connected sites.

    Two nodes of one name: if both run from the same state folder, the site was restarted and the newer node is it. If
    not, somebody took the name twice: the newcomer is refused until the first has gone.

    Args:
        on_site: told who joins, leaves and is refused.
    """

    def __init__(self, on_site: OnSite) -> None:
        self.on_site = on_site
        self.nodes: dict[int, HelloReply] = {}
        self.failed: dict[str, FailedReply] = {}
        self._refused: dict[int, str] = {}

    @property
    def hellos(self) -> dict[str, HelloReply]:
        """What each connected site has, by registered name."""
        return {hello.site: hello for hello in self.nodes.values()}

    def node_of(self, site: str) -> int | None:
        """The node that speaks for a site; None if it is not connected."""
        return next((node for node, hello in self.nodes.items() if hello.site == site), None)

    def protocol_of(self, node: int) -> int:
        """The newest protocol that both ends understand; ours, until the node has introduced itself."""
        hello = self.nodes.get(node)
        return min(PROTOCOL, hello.protocol) if hello else PROTOCOL

    def strangers(self, alive: Iterable[int]) -> list[int]:
        """Forgets nodes that are gone; the connected ones that have not introduced themselves."""
        alive = list(alive)
        for node in [node for node in self.nodes if node not in alive]:
            self.forget(node, "OF506", "A node must stay connected.")
        for node in [node for node in self._refused if node not in alive]:
            del self._refused[node]
        return [node for node in alive if node not in self.nodes and node not in self._refused]

    def forget(self, node: int, code: str, rule: str) -> None:
        """A node is gone; whoever was refused for its sake may introduce itself again."""
        hello = self.nodes.pop(node, None)
        if hello is None:
            return
        self.on_site(hello.site, "lost", {"code": code, "rule": rule})
        for other in [other for other, site in self._refused.items() if site == hello.site]:
            del self._refused[other]

    def introduce(self, node: int, reply: Reply) -> None:
        """Takes the answer to a greeting."""
        if isinstance(reply, FailedReply):
            if self.failed.get(reply.site, reply).code != reply.code or reply.site not in self.failed:
                log.warning("a node did not introduce itself: %s: %s", reply.code, reply.rule)
                self.on_site(reply.site, "refused", {"code": reply.code, "rule": reply.rule})
            self.failed[reply.site] = reply
            return
        if not isinstance(reply, HelloReply):
            return
        if reply.protocol < MIN_PROTOCOL:
            self._refuse(node, reply, "OF513", f"A site must speak protocol {MIN_PROTOCOL} at least.")
            return
        holder = self.node_of(reply.site)
        if holder is not None and holder != node:
            if not reply.instance or self.nodes[holder].instance != reply.instance:
                self._refuse(node, reply, "OF508", "Each site must have its own registered name.")
                return
            # It was restarted before its end was noticed: whoever watches must still see that it was away.
            self.forget(holder, "OF506", "A node must stay connected.")
        self.nodes[node] = reply
        self.failed.pop(reply.site, None)
        fields = reply.model_dump(include={"version", "train", "val", "test", "modality"})
        self.on_site(reply.site, "joined", fields)

    def _refuse(self, node: int, hello: HelloReply, code: str, rule: str) -> None:
        self._refused[node] = hello.site
        log.warning("node %s is refused: %s: %s Seen: %s", node, code, rule, hello.site)
        if self.node_of(hello.site) is None:
            self.failed[hello.site] = FailedReply(id=hello.id, site=hello.site, code=code, rule=rule)
        self.on_site(hello.site, "refused", {"code": code, "rule": rule})
