"""The rounds of one arm: ask, keep each reply, average, keep the round; the same in process, under Ray and deployed.

Replies are averaged from disk when a round is complete, in the order of ``config.sites``: the weights are the same bit
for bit whatever the order of arrival, the backend, and however often the coordinator was killed.
"""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omnifed.errors import OmniFedError
from omnifed.federation.aggregation import StreamingMean, Update, weight
from omnifed.federation.partition import start
from omnifed.federation.replies import FailedReply, FitReply
from omnifed.federation.robust import combine
from omnifed.federation.tasks import FitTask
from omnifed.federation.validation import too_long, update_norm
from omnifed.federation.wire import NO_BASE, decode
from omnifed.models.slices import SliceMap, slice_map, take
from omnifed.models.spec import StudentSpec
from omnifed.states import State
from omnifed.transport.pool import LATE, Arrival, TaskPool
from omnifed.trust.identity import CoordinatorIdentity
from omnifed_server.arm import ArmConfig as ArmConfig
from omnifed_server.arm import ArmResult as ArmResult
from omnifed_server.arm import Miss, below_quorum
from omnifed_server.downlink import Downlink, downlink
from omnifed_server.ledger import Ledger
from omnifed_server.private_round import PrivateRound, no_identity

log = logging.getLogger("omnifed.server")
OnEvent = Callable[[str, dict[str, Any]], None]


def run_arm(
    pool: TaskPool,
    config: ArmConfig,
    folder: Path,
    *,
    identity: CoordinatorIdentity | None = None,
    on_event: OnEvent = lambda name, fields: None,
) -> ArmResult:
    """Runs an arm to its last round, from where ``folder`` says it stands.

    Args:
        pool: the sites.
        config: the arm.
        folder: of this arm; what is there is continued.
        identity: of the coordinator; private rounds need it.
        on_event: told of ``round`` (one accepted reply), ``miss`` and ``aggregate`` (one finished round), after they
            are on disk. After a resume, those of the unfinished round come again, with ``again`` set.

    Raises:
        OmniFedError: OF509 if too few sites answered twice (all that is finished is kept), OF518 if ``folder`` belongs
            to another configuration, OF304 if the students are not slices of one, OF103 if the disk is full, and OF840
            to OF847 for private rounds.
    """
    ledger = Ledger(folder, config)
    maps = _slice_maps(config)
    state: State = {}
    local: State = {}
    if config.aggregate:
        fresh, local = start(config.largest, config.spec, config.local_layers, config.seed)
        if not ledger.state_path(-1).is_file():
            ledger.save(-1, fresh)
        state = ledger.load(len(ledger.records) - 1)
    if config.private and identity is None:
        raise no_identity()
    for round_ in range(len(ledger.records), config.rounds):
        if config.private and identity is not None:
            state = PrivateRound(pool, config, ledger, on_event, round_, identity).run(state)
            continue
        state = _Round(pool, config, ledger, maps, on_event, round_).run(state, local)
    return _result(config, ledger)


class _Round:
    """One round: what came, what did not."""

    def __init__(
        self,
        pool: TaskPool,
        config: ArmConfig,
        ledger: Ledger,
        maps: Mapping[StudentSpec, SliceMap | None],
        on_event: OnEvent,
        round_: int,
    ) -> None:
        self.pool, self.config, self.ledger, self.maps = pool, config, ledger, maps
        self.on_event, self.round = on_event, round_
        self.replies: dict[str, tuple[FitReply, dict[str, Any]]] = {}
        self.misses: dict[str, Miss] = {}
        self.down: Downlink
        self.scales: dict[str, float] = next((r["scales"] for r in ledger.records if r["scales"]), {})

    def run(self, state: State, local: State) -> State:
        started = time.perf_counter()
        self.down = downlink(self.config, self.ledger, self.maps, self.round, state)
        mean = StreamingMean(self.down.held)
        for site in self.config.sites:
            kept = self.ledger.reply(self.round, site)
            if kept:
                self.replies[site] = kept[0], kept[2]
                self._tell(site, again=True)
        for _ in range(2):
            self._ask(mean)
            self._leave_out()
            if len(self.replies) >= self.config.needed:
                break
        else:
            raise below_quorum(self.config, list(self.misses.values()), len(self.replies))
        if self.config.aggregate:
            state = self._average(local)
            self.ledger.save(self.round, state)
        record = self._record(time.perf_counter() - started)
        self.ledger.finish(record)
        costs = ("seconds", "virtual_seconds", "bytes_up", "bytes_down")
        fields = {"sites": len(self.replies), "misses": len(self.misses), **{key: record[key] for key in costs}}
        self.on_event("aggregate", {"arm": self.config.name, "round": self.round, **fields})
        return state

    def _ask(self, mean: StreamingMean) -> None:
        missing = [site for site in self.config.sites if site not in self.replies]
        without = self._exchange({site: self.down.message(site, self.scales) for site in missing}, mean)
        if without:
            log.info("round %d: %s get the whole weights", self.round, ", ".join(without))
            self._exchange({site: self.down.message(site, self.scales, whole=True) for site in without}, mean)

    def _exchange(self, tasks: dict[str, tuple[FitTask, State]], mean: StreamingMean) -> list[str]:
        """Sends tasks and accepts replies; returns the sites that do not hold what their change refers to."""
        without: list[str] = []
        needed = max(0, self.config.needed - len(self.replies))
        for arrival in self.pool.run(tasks, deadline_s=self.config.deadline_s, needed=needed) if tasks else ():
            reply = arrival.reply
            if isinstance(reply, FailedReply) and reply.code == NO_BASE and tasks[arrival.site][0].base is not None:
                without.append(arrival.site)
                continue
            try:
                self._accept(arrival, mean)
            except OmniFedError as error:
                if error.code == "OF103":
                    raise
                self._miss(arrival.site, error.code, error.rule)
        return without

    def _accept(self, arrival: Arrival, mean: StreamingMean) -> None:
        site, reply, state = arrival.site, arrival.reply, arrival.state
        if isinstance(reply, FailedReply):
            self._miss(arrival.site, reply.code, reply.rule)
            return
        if not isinstance(reply, FitReply):
            raise OmniFedError("OF504", "A reply must answer the task that was sent: same id, kind, site and protocol.")
        if self.config.aggregate:
            state = decode(state, self.config.wire, base=self.down.held_by(site))
            found = self.maps[self.config.student_of(site)]
            mean.check(_global(state, mean.keys(found)) if self.config.upload == "all" else state, found)
        costs: dict[str, Any] = {
            "bytes_up": arrival.bytes_up,
            "bytes_down": arrival.bytes_down,
            "virtual_seconds": arrival.virtual_seconds,
        }
        if self.config.aggregate:
            costs["norm"] = update_norm(state, self.down.held_by(site))
        self.ledger.keep(self.round, reply, state, costs)
        self.replies[site] = reply, costs
        self.misses.pop(site, None)
        self._tell(site)

    def _tell(self, site: str, *, again: bool = False) -> None:
        reply, costs = self.replies[site]
        fields: dict[str, Any] = {
            "arm": self.config.name,
            "round": self.round,
            "site": site,
            "dice": reply.dice,
            "loss": reply.loss,
            "seconds": reply.seconds,
            "adopted": reply.adopted,
            "accepted": reply.accepted,
            **costs,
        }
        self.on_event("round", fields | ({"again": True} if again else {}))

    def _leave_out(self) -> None:
        """Updates that are far too long beside the others': known only when those are there."""
        norms = {site: costs["norm"] for site, (_, costs) in self.replies.items() if "norm" in costs}
        alone = [site for site, (reply, _) in self.replies.items() if self.config.gate and not reply.accepted]
        reach = sum(record.get("norm") or 0.0 for record in self.ledger.records)
        for site, error in too_long(norms, self.config.aggregation, alone=alone, reach=reach).items():
            log.warning("round %d: %s", self.round, error)
            del self.replies[site]
            self._miss(site, error.code, error.rule)

    def _miss(self, site: str, code: str, rule: str) -> None:
        miss = Miss(self.round, site, code, rule)
        self.misses[site] = miss
        self.on_event("miss", {"arm": self.config.name, **asdict(miss)})

    def _average(self, local: State) -> State:
        here = [site for site in self.config.sites if site in self.replies]
        updates = [self._update(site, self.down.held, whole=True) for site in here]
        result = self.down.restore(combine(self.config.aggregation, self.down.held, updates))
        if self.config.upload == "all":
            # Stems and heads of other channels and classes cannot be averaged; norms can.
            own = [self._update(site, local, whole=False) for site in here]
            starter = combine(self.config.aggregation, local, own, partial=True)
            self.ledger.save_starter(self.round, result | starter)
        return result

    def _update(self, site: str, held: State, *, whole: bool) -> Update:
        """A kept reply as its part in ``held``; unless ``whole``, only what has the same shape there."""
        found = self.maps[self.config.student_of(site)]
        shapes = StreamingMean(held).keys(found)

        def load() -> State:
            kept = self.ledger.reply(self.round, site)
            state = kept[1] if kept else {}
            return {k: v for k, v in state.items() if k in shapes and (whole or shapes[k] == v.shape)}

        return Update(load, weight(self.replies[site][0].n, self.config.weighting), found)

    def _record(self, seconds: float) -> dict[str, Any]:
        costs = [costs for _, costs in self.replies.values()]
        virtual = [cost["virtual_seconds"] for cost in costs if cost["virtual_seconds"] is not None]
        if virtual and self.config.deadline_s and any(miss.code == LATE for miss in self.misses.values()):
            virtual.append(self.config.deadline_s)  # who is late has been waited for
        return {
            "round": self.round,
            "seconds": seconds,
            "virtual_seconds": max(virtual) if virtual else None,
            "bytes_up": sum(cost["bytes_up"] for cost in costs),
            "bytes_down": sum(cost["bytes_down"] for cost in costs),
            "scales": self.scales or _median_scales([reply for reply, _ in self.replies.values()]),
            "dice": {site: reply.dice for site, (reply, _) in self.replies.items()},
            "norm": statistics.median([cost["norm"] for cost in costs if "norm" in cost] or [0.0]),
            "misses": [asdict(miss) for miss in self.misses.values()],
        }


def _global(state: State, keys: Mapping[str, object]) -> State:
    return {key: value for key, value in state.items() if key in keys}


def slices_for(config: ArmConfig, state: State) -> dict[str, State]:
    """The part of the global state that each site's student holds; one object for all that hold the same."""
    parts = {s: state if found is None else take(state, found) for s, found in _slice_maps(config).items()}
    return {site: parts[config.student_of(site)] for site in config.sites}


def _slice_maps(config: ArmConfig) -> dict[StudentSpec, SliceMap | None]:
    """For each student, where it lies in the largest one; None for the largest itself."""
    large = config.largest
    students = {config.student_of(site) for site in config.sites}
    return {s: None if s == large else slice_map(large, s, config.spec) for s in students}


def _median_scales(replies: list[FitReply]) -> dict[str, float]:
    """OmniKD's m_i for all sites: the median of what they measured in the first round."""
    terms = sorted({term for reply in replies for term in reply.scales})
    return {term: statistics.median(r.scales[term] for r in replies if term in r.scales) for term in terms}


def _result(config: ArmConfig, ledger: Ledger) -> ArmResult:
    records, last = ledger.records, len(ledger.records) - 1
    virtual = [record["virtual_seconds"] for record in records if record["virtual_seconds"] is not None]
    dice: dict[str, float] = {}
    for record in records:
        dice |= record["dice"]
    return ArmResult(
        arm=config.name,
        rounds=len(records),
        state=ledger.state_path(last) if config.aggregate else None,
        starter=ledger.starter_path(last) if config.aggregate and config.upload == "all" else None,
        dice=dice,
        scales=records[-1]["scales"],
        misses=tuple(Miss(**miss) for record in records for miss in record["misses"]),
        seconds=sum(record["seconds"] for record in records),
        virtual_seconds=sum(virtual) if virtual else None,
        bytes_up=sum(record["bytes_up"] for record in records),
        bytes_down=sum(record["bytes_down"] for record in records),
    )
