"""Trials at many sites at once: a site that is free is asked, whatever the others do, until the budget is spent."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from omnifed.errors import OmniFedError
from omnifed.federation.replies import FailedReply, TrialReply
from omnifed.federation.tasks import Task
from omnifed.search.study import Study
from omnifed.search.trials import Observation, Trial
from omnifed.states import State
from omnifed.transport.exchange import AWAY, LOST
from omnifed.transport.pool import LATE, Arrival, TaskPool
from omnifed_server.rounds import OnEvent

STRIKES = 3
"""Failures in a row after which a site is asked no more in this search."""
TRANSPORT = (AWAY, LATE, LOST)
"""What may happen to any trial on its way: it is asked again, elsewhere or later, and counts against nobody."""
TOO_LARGE = "OF761"
"""A network that does not fit a site's device: the fault of neither."""
Tasks = Mapping[str, tuple[Task, State]]


class SearchLoop:
    """Asks and tells one study.

    Args:
        stage: ``search-architecture`` or ``search-weights``.
        study: the searcher and its journal.
        pool: the sites.
        sites: registered names that take part.
        task_of: the task of a trial, and the weights that travel with it.
        on_event: told of ``trial`` (an observation that counts), ``miss`` and ``warning``.
        total: trials that the budget allows, for the view; 0 where it is in minutes.
    """

    def __init__(
        self,
        stage: str,
        study: Study,
        pool: TaskPool,
        sites: Sequence[str],
        task_of: Callable[[Trial], tuple[Task, State]],
        on_event: OnEvent,
        total: int = 0,
    ) -> None:
        self.stage, self.study, self.pool, self.sites = stage, study, pool, tuple(sites)
        self.task_of, self.on_event, self.total = task_of, on_event, total
        self.running: dict[str, Trial] = {}
        self.out: set[str] = set()
        self.strikes: Counter[str] = Counter()

    def tell_again(self) -> None:
        """Tells of what the journal holds already: a view that starts now shows all trials."""
        for number, seen in enumerate(self.study.history.told, 1):
            self._tell(seen, number, again=True)

    def run(self, enough: Callable[[str], bool]) -> bool:
        """Asks each site until it is ``enough`` there; at the end no trial is on its way.

        Args:
            enough: whether no further trial is to be asked of a site.

        Returns:
            Whether it ended because it was enough; False if the searcher had nothing left to ask.

        Raises:
            OmniFedError: OF765 if every site failed :data:`STRIKES` trials in a row, OF766 if no site is connected, and
                what the study raises. Trials that were told stay in the journal.
        """
        self._give_up_absent()
        while True:
            wanted = [site for site in self.sites if self._wanted(site, enough)]
            if not wanted:
                return True
            self._await(wanted)
            tasks = self._give(enough)
            if not tasks:
                return False
            for _ in self.pool.run(tasks, needed=1, more=lambda arrival: self._next(arrival, enough)):
                pass
            if self.out >= set(self.sites):
                raise self._nobody()

    def _give_up_absent(self) -> None:
        """Trials of a killed session at sites that are away now are asked elsewhere; the others are asked again."""
        for trial in self.study.history.pending:
            if self.pool.node_of(trial.site) is None:
                self.study.expire(trial, "A site that is asked must be connected.")

    def _wanted(self, site: str, enough: Callable[[str], bool]) -> bool:
        pending = any(trial.site == site for trial in self.study.history.pending)
        return site not in self.out and (pending or not enough(site))

    def _await(self, wanted: Sequence[str]) -> None:
        """Waits until one of ``wanted`` is there and has nothing to do."""
        if set(wanted) & set(self._free()):
            return
        found = self.pool.wait_for(wanted, 1, self.pool.patience.wait_s)
        while set(wanted) & set(found) and not set(wanted) & set(
            self._free()
        ):  # connected, but at work on what they owe
            self.pool.pull(())
            time.sleep(self.pool.poll_s)
            found = self.pool.hello()
        if not set(wanted) & set(found):
            raise OmniFedError(
                "OF766",
                "A search needs at least one connected site.",
                seen=f"none of {', '.join(wanted)}",
                remedy="Start omnifed-client at a site, then start the same command again: told trials are kept.",
            )

    def _free(self) -> list[str]:
        """Sites that are there and have nothing to do; those that did least come first."""
        done = dict.fromkeys(self.sites, 0)
        for seen in self.study.history.told:
            if seen.trial.site in done:
                done[seen.trial.site] += 1
        free = []
        for site in self.sites:
            node = None if site in self.running or site in self.out else self.pool.node_of(site)
            if node is not None and not self.pool.is_busy(site, node):
                free.append(site)
        return sorted(free, key=lambda site: (done[site], self.sites.index(site)))

    def _give(self, enough: Callable[[str], bool]) -> Tasks:
        free = [site for site in self._free() if self._wanted(site, enough)]
        trials = self.study.ask(free) if free else []
        self.running |= {trial.site: trial for trial in trials}
        return {trial.site: self.task_of(trial) for trial in trials}

    def _next(self, arrival: Arrival, enough: Callable[[str], bool]) -> Tasks:
        trial = self.running.pop(arrival.site)
        reply = arrival.reply
        if isinstance(reply, TrialReply):
            self.strikes[arrival.site] = 0
            self._count(trial, reply, arrival)
        elif isinstance(reply, FailedReply) and reply.code in TRANSPORT:
            self.study.expire(trial, reply.rule)
            self._miss(arrival.site, reply.code, reply.rule)
        else:
            code, rule = (reply.code, reply.rule) if isinstance(reply, FailedReply) else _UNASKED
            self.study.fail(trial, code, rule)
            self._miss(arrival.site, code, rule)
            self.strikes[arrival.site] += code != TOO_LARGE
            if self.strikes[arrival.site] >= STRIKES:
                self.out.add(arrival.site)
                text = f"left out of {self.stage}: {STRIKES} trials in a row failed, the last with {code}"
                self.on_event("warning", {"site": arrival.site, "text": text})
        return self._give(enough)

    def _count(self, trial: Trial, reply: TrialReply, arrival: Arrival) -> None:
        seen = Observation(
            trial=trial,
            dice=reply.dice,
            se=reply.se,
            n=reply.n,
            seconds=reply.seconds,
            step_seconds=reply.step_seconds,
        )
        if self.study.tell(seen):
            traffic = {"bytes_up": arrival.bytes_up, "bytes_down": arrival.bytes_down}
            self._tell(seen, len(self.study.history.told), **traffic)

    def _tell(self, seen: Observation, number: int, **more: Any) -> None:
        told = self.study.history.told[:number]
        longest = max(one.trial.steps for one in told)
        best = max(one.dice for one in told if one.trial.steps == longest)
        fields = {"site": seen.trial.site, "key": seen.trial.key, "steps": seen.trial.steps, "why": seen.trial.why}
        figures = {"dice": seen.dice, "se": seen.se, "seconds": seen.seconds, "best": best}
        place = {"stage": self.stage, "number": number, "total": self.total}
        self.on_event("trial", {**place, **fields, **figures, **more})

    def _miss(self, site: str, code: str, rule: str) -> None:
        self.on_event("miss", {"arm": self.stage, "round": -1, "site": site, "code": code, "rule": rule})

    def _nobody(self) -> OmniFedError:
        return OmniFedError(
            "OF765",
            "A search needs at least one site that can do its trials.",
            seen=f"each of {', '.join(self.sites)} failed {STRIKES} trials in a row",
            remedy="See what the sites' misses say (teach comes before search-weights; a site needs validation cases), "
            "then start the same command again: told trials are kept.",
        )


_UNASKED = ("OF504", "A reply must answer its task.")
