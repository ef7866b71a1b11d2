"""One round whose updates nobody sees: training, then three exchanges under masks (docs/secure-aggregation.md).

Each answer is on disk before it counts, and an exchange is closed on disk before the next one begins: a coordinator
that was killed goes on in the same attempt with the same sites. While nobody has been asked to reveal anything, an
attempt that too few sites have stayed in is given up and begun anew with fresh keys; the training is not repeated.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from omnifed.errors import OmniFedError
from omnifed.federation.replies import FitReply, MaskedReply, Reply, SharesReply, UnmaskReply
from omnifed.federation.tasks import MaskedTask, SharesTask, Task, UnmaskTask
from omnifed.privacy.secagg.collect import check_receipt, check_shared, false_shares, inbox_of, survivors_of, unmask
from omnifed.privacy.secagg.fixed import Layout, Sums
from omnifed.privacy.secagg.keys import Parties, Session
from omnifed.privacy.secagg.records import Revealed, Shared
from omnifed.states import State
from omnifed.transport.pool import TaskPool
from omnifed.trust.identity import CoordinatorIdentity
from omnifed.trust.signing import Signed
from omnifed_server.arm import ArmConfig
from omnifed_server.ledger import Ledger
from omnifed_server.private_answers import TOO_FEW, Answers, OnEvent

log = logging.getLogger("omnifed.server")
ATTEMPTS = 3


class PrivateRound:
    """A private round of an arm.

    Args:
        pool: the sites.
        config: of the arm.
        ledger: of the arm.
        on_event: as of :func:`~omnifed_server.rounds.run_arm`; its ``round`` has no figures, its ``aggregate`` has the
            sites' means.
        round_: 0-based.
        identity: signs the lists of survivors; its roster says whose keys are good.
    """

    def __init__(
        self,
        pool: TaskPool,
        config: ArmConfig,
        ledger: Ledger,
        on_event: OnEvent,
        round_: int,
        identity: CoordinatorIdentity,
    ) -> None:
        self.config, self.ledger, self.on_event = config, ledger, on_event
        self.round, self.identity = round_, identity
        self.threshold = config.privacy.threshold
        self.answers = Answers(pool, config, ledger, on_event, round_)
        self.scales: dict[str, float] = next((r["scales"] for r in ledger.records if r["scales"]), {})

    def run(self, state: State) -> State:
        """Does the round, from where the ledger says that it stands.

        Raises:
            OmniFedError: OF846 if too few sites stayed, OF847 if what they sent does not fit together.
        """
        started = time.perf_counter()
        layout = Layout(state, len(self.config.sites), self.config.privacy.clip)
        answers, left = self.answers, ATTEMPTS - 1
        while True:
            try:
                sums, sites = self._sum(layout)
                break
            except OmniFedError as error:
                sharing = answers.is_closed("fit") and not answers.is_closed("masked")
                if error.code != TOO_FEW or not sharing or not left:
                    raise
                log.warning("round %d begins anew: %s", self.round, error)
                answers.begin_anew()
                left -= 1
        state = layout.apply(sums)
        self.ledger.save(self.round, state)
        self._finish(sums, sites, time.perf_counter() - started)
        return state

    def _sum(self, layout: Layout) -> tuple[Sums, list[str]]:
        """The four messages of an attempt; what the sum says, and of which sites it is."""
        session = Session(
            federation=self.identity.about.name,
            campaign=self.config.campaign,
            arm=self.config.name,
            round=self.round,
            attempt=self.answers.attempt,
        )
        keys = self._keys(layout, session)
        parties = Parties.read(keys, session)
        shared = self._shares(parties, keys)
        masked = self._masked(parties, shared, layout)
        revealed = self._unmask(parties, masked)
        total = np.zeros(layout.size, np.uint32)
        for site in masked:
            total += self.answers.arrays("masked", site)["masked"]
        unmask(total, parties, self.threshold, shared, masked, revealed)
        sums = layout.decode(total)
        if not layout.plausible(sums, len(masked)):
            raise false_shares("the sum of the updates is no sum of updates within their clip")
        return sums, list(masked)

    # The messages -----------------------------------------------------------------------------------------------

    def _keys(self, layout: Layout, session: Session) -> tuple[Signed, ...]:
        """Training; each site keeps its update and advertises its keys."""
        roster = self.identity.roster()

        def check(site: str, reply: Reply, state: State) -> None:
            if not isinstance(reply, FitReply) or reply.keys is None or state:
                raise _unasked()
            if site not in Parties.open([reply.keys], session, roster, self.config.sites).adverts:
                raise _unasked()

        whole = dict(layout.held)
        tasks: dict[str, tuple[Task, State]] = {}
        for site in self.config.sites:
            task = self.config.task(self.round, site, self.scales, attempt=self.answers.attempt)
            tasks[site] = task, State() if self.answers.has_trained(site) else whole
        replies = self.answers.ask("fit", tasks, max(self.threshold, self.config.needed), check)
        return tuple(reply.keys for reply in replies.values() if isinstance(reply, FitReply) and reply.keys)

    def _shares(self, parties: Parties, keys: tuple[Signed, ...]) -> dict[str, Shared]:
        def check(site: str, reply: Reply, state: State) -> None:
            check_shared(parties, site, _shared(reply))

        tasks = {site: (SharesTask(**self._head(site, "shares"), keys=keys), State()) for site in parties.adverts}
        replies = self.answers.ask("shares", tasks, self.threshold, check)
        return {site: _shared(reply) for site, reply in replies.items()}

    def _masked(self, parties: Parties, shared: Mapping[str, Shared], layout: Layout) -> dict[str, Signed]:
        """Receipts by site; the masked vectors stay on disk."""

        def check(site: str, reply: Reply, state: State) -> None:
            vector = state.get("masked")
            if not isinstance(reply, MaskedReply) or vector is None or len(state) > 1:
                raise _unasked()
            if vector.dtype != np.uint32 or vector.shape != (layout.size,):
                raise false_shares(f"{site}: {vector.dtype} {vector.shape} instead of {layout.size} numbers")
            check_receipt(parties, site, shared.keys(), reply.receipt)

        tasks = {
            site: (MaskedTask(**self._head(site, "masked"), inbox=inbox_of(site, shared)), State()) for site in shared
        }
        replies = self.answers.ask("masked", tasks, self.threshold, check)
        return {site: reply.receipt for site, reply in replies.items() if isinstance(reply, MaskedReply)}

    def _unmask(self, parties: Parties, receipts: Mapping[str, Signed]) -> dict[str, Revealed]:
        def check(site: str, reply: Reply, state: State) -> None:
            if not isinstance(reply, UnmaskReply):
                raise _unasked()

        survivors = survivors_of(parties, receipts, self.identity.speaking()[0])
        sent = tuple(receipts[site] for site in sorted(receipts))
        tasks = {
            site: (UnmaskTask(**self._head(site, "unmask"), survivors=survivors, receipts=sent), State())
            for site in receipts
        }
        replies = self.answers.ask("unmask", tasks, self.threshold, check)
        return {
            site: Revealed(seeds=reply.seeds, keys=reply.keys)
            for site, reply in replies.items()
            if isinstance(reply, UnmaskReply)
        }

    def _head(self, site: str, kind: str) -> dict[str, Any]:
        return {
            "id": self.config.task_id(self.round, site, kind, self.answers.attempt),
            "campaign": self.config.campaign,
            "arm": self.config.name,
            "purpose": self.config.purpose,
            "round": self.round,
            "attempt": self.answers.attempt,
        }

    # The end ----------------------------------------------------------------------------------------------------

    def _finish(self, sums: Sums, sites: list[str], seconds: float) -> None:
        found: dict[str, dict[str, float]] = {"loss": {}, "scales": {}}
        for name, value in sums.figures.items():
            group, _, figure = name.partition("/")
            if figure:
                found[group][figure] = value
        mean = {"dice": sums.figures.get("dice"), "loss": found["loss"]}
        costs = {"seconds": seconds, **self.answers.spent()}
        misses = [asdict(miss) for site, miss in self.answers.misses.items() if site not in sites]
        about = {"dice": {}, "mean": mean, "sites": sites, "attempt": self.answers.attempt, "misses": misses}
        scales = self.scales or found["scales"]
        self.ledger.finish({"round": self.round, **costs, "scales": scales, **about})
        told = {"arm": self.config.name, "round": self.round, "sites": len(sites)}
        self.on_event("aggregate", {**told, "misses": len(self.config.sites) - len(sites), **costs, **mean})


def no_identity() -> OmniFedError:
    """The error of a coordinator that is to do private rounds and cannot sign."""
    return OmniFedError(
        "OF840",
        "A private round needs sites and a coordinator that can prove who they are.",
        seen="this coordinator has no identity",
        remedy="Run omnifed-server init and name its folder as identity, or use aggregation = mean.",
    )


def _shared(reply: Reply) -> Shared:
    if not isinstance(reply, SharesReply):
        raise _unasked()
    return Shared(sealed=reply.sealed, commitment=reply.commitment, digests=reply.digests)


def _unasked() -> OmniFedError:
    return OmniFedError("OF504", "A reply must answer the task that was sent: same id, kind, site and protocol.")
