"""The exchanges of a private round: who is asked, whose answers count, what they cost and who is told."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from omnifed.errors import OmniFedError
from omnifed.federation.replies import FailedReply, Reply
from omnifed.federation.tasks import Task
from omnifed.states import State
from omnifed.transport.pool import Arrival, TaskPool
from omnifed_server.arm import ArmConfig, Miss
from omnifed_server.ledger import Ledger

log = logging.getLogger("omnifed.server")
TOO_FEW = "OF846"
OnEvent = Callable[[str, dict[str, Any]], None]
Check = Callable[[str, Reply, State], None]


class Answers:
    """Answers of one round, all of its attempts.

    Args:
        pool: the sites.
        config: of the arm.
        ledger: of the arm.
        on_event: told of ``round`` when a site's masked update is there, of misses, and of warnings.
        round_: 0-based.
    """

    def __init__(self, pool: TaskPool, config: ArmConfig, ledger: Ledger, on_event: OnEvent, round_: int) -> None:
        self.pool, self.config, self.ledger, self.on_event, self.round = pool, config, ledger, on_event, round_
        self.misses: dict[str, Miss] = {}
        self.costs: list[dict[str, Any]] = []
        self.attempt = ledger.attempt(round_)

    def begin_anew(self) -> None:
        """Gives the attempt up."""
        self.ledger.give_up(self.round, self.attempt)
        self.attempt += 1

    def is_closed(self, kind: str) -> bool:
        """Whether an exchange of this attempt is over."""
        return self.ledger.closed(self.round, self.attempt, kind) is not None

    def ask(self, kind: str, tasks: Mapping[str, tuple[Task, State]], needed: int, check: Check) -> dict[str, Reply]:
        """Answers that count, by site in the order of ``tasks``; too few are asked for once more.

        Raises:
            OmniFedError: OF846 below ``needed``.
        """
        answers: dict[str, Reply] = {}
        settled = self.ledger.closed(self.round, self.attempt, kind)
        for site in tasks:
            kept = self.ledger.answer(self.round, self.attempt, kind, site)
            if kept and (settled is None or site in settled):
                answers[site] = kept[0]
                self._counts(kind, kept[0], kept[2], again=True)
        for _ in range(2 if settled is None else 0):
            rest = {site: asked for site, asked in tasks.items() if site not in answers}
            if rest:
                short = max(0, needed - len(answers))
                for arrival in self.pool.run(rest, deadline_s=self.config.deadline_s, needed=short):
                    self._take(kind, arrival, check, answers)
            if len(answers) >= needed:
                break
        if len(answers) < needed:
            raise self._too_few(kind, needed, answers)
        if settled is None:
            self.ledger.close(self.round, self.attempt, kind, [site for site in tasks if site in answers])
        return {site: answers[site] for site in tasks if site in answers}

    def _take(self, kind: str, arrival: Arrival, check: Check, answers: dict[str, Reply]) -> None:
        site, reply = arrival.site, arrival.reply
        try:
            if isinstance(reply, FailedReply):
                raise OmniFedError(reply.code, reply.rule)
            check(site, reply, arrival.state)
        except OmniFedError as error:
            log.warning("round %d, %s: %s: %s", self.round, kind, site, error)
            self._miss(kind, site, error)
            return
        costs = {
            "bytes_up": arrival.bytes_up,
            "bytes_down": arrival.bytes_down,
            "virtual_seconds": arrival.virtual_seconds,
        }
        self.ledger.keep_answer(self.round, self.attempt, reply, arrival.state, costs)
        answers[site] = reply
        self._counts(kind, reply, costs)

    def _counts(self, kind: str, reply: Reply, costs: dict[str, Any], *, again: bool = False) -> None:
        """Notes what an answer cost; with its masked update a site is part of the round."""
        self.costs.append({**costs, "kind": kind, "site": reply.site, "seconds": reply.seconds})
        if kind != "masked":
            return
        self.misses.pop(reply.site, None)
        own = [cost for cost in self.costs if cost["site"] == reply.site]
        fields = {key: sum(cost[key] for cost in own) for key in ("seconds", "bytes_up", "bytes_down")}
        about = {"arm": self.config.name, "round": self.round, "site": reply.site}
        self.on_event("round", {**about, **fields, **({"again": True} if again else {})})

    def _miss(self, kind: str, site: str, error: OmniFedError) -> None:
        if kind == "unmask":  # its update is in the sum
            text = f"did not help to unmask round {self.round + 1}: {error.public}"
            self.on_event("warning", {"site": site, "text": text})
            return
        self.misses[site] = Miss(self.round, site, error.code, error.rule)
        self.on_event("miss", {"arm": self.config.name, **asdict(self.misses[site])})

    def has_trained(self, site: str) -> bool:
        """Whether the site keeps its update of an attempt that was given up."""
        return any(self.ledger.answer(self.round, before, "fit", site) for before in range(self.attempt))

    def arrays(self, kind: str, site: str) -> State:
        """Arrays of an answer that counts.

        Raises:
            OmniFedError: OF104 if they cannot be read any more.
        """
        kept = self.ledger.answer(self.round, self.attempt, kind, site)
        if kept is None:
            raise OmniFedError(
                "OF104",
                "A state file must be a whole safetensors file with a head written by OmniFed.",
                seen=f"the {kind} answer of {site} in round {self.round}",
                remedy="Restore the run folder from a backup: sites give no other sum of this round.",
            )
        return kept[1]

    def spent(self) -> dict[str, Any]:
        """Bytes, and the virtual seconds of a grid that has a clock: those of the slowest site in each exchange."""
        slowest: dict[str, float] = {}
        for cost in self.costs:
            if cost["virtual_seconds"] is not None:
                slowest[cost["kind"]] = max(slowest.get(cost["kind"], 0.0), cost["virtual_seconds"])
        return {
            "virtual_seconds": sum(slowest.values()) if slowest else None,
            "bytes_up": sum(cost["bytes_up"] for cost in self.costs),
            "bytes_down": sum(cost["bytes_down"] for cost in self.costs),
        }

    def _too_few(self, kind: str, needed: int, answers: Mapping[str, Reply]) -> OmniFedError:
        codes = {site: miss.code for site, miss in self.misses.items() if site not in answers}
        missing = ", ".join(f"{site} ({code})" for site, code in codes.items())
        return OmniFedError(
            TOO_FEW,
            f"A private round needs {needed} sites in each of its exchanges, to the end.",
            seen=f"{kind} of round {self.round + 1}: {len(answers)} answered; missing: {missing}",
            remedy="Bring the missing sites back and start the same command again (omnifed-sim: with --resume): what "
            "has come is kept.",
        )
