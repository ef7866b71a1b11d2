"""What an architecture search ends with, from its history."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from omnifed.search.agreement import agreement
from omnifed.search.budgets import Device
from omnifed.search.dice_model import POINTS, DiceModel, errors
from omnifed.search.front import front
from omnifed.search.problem import ArchitectureProblem
from omnifed.search.results import (
    Agreement,
    ArchitectureResult,
    DeviceResult,
    Difference,
    FrontMember,
    NetworkResult,
    SiteEffect,
    Step,
)
from omnifed.search.trials import History, Observation
from omnifed.search.variants import variant_checks

Z = 1.96
"""Standard deviations to either side of a 95 % interval."""
EQUAL_POINTS = 0.02
"""Networks within so many Dice points of the best are as good. More costs more than it says: where a process knows
little it flattens the slope towards the best."""


def architecture_result(
    problem: ArchitectureProblem, history: History, *, stopped: str, cost: float, image_size: tuple[int, int]
) -> ArchitectureResult:
    """Chooses by the posterior, not by the best observed score, which is the luckiest.

    Args:
        problem: with its devices and settings.
        history: all that was asked and told.
        stopped: why it ended.
        cost: relative to training the balanced student once.
        image_size: at which costs and latencies hold.

    Raises:
        OmniFedError: OF742 for an observation that is not finite, OF743 if nothing was told.
    """
    found = _Found(problem, history)
    devices = tuple(found.device(device) for device in problem.devices)
    shown = {member.key for device in devices for member in device.front} | set(found.trials)
    return ArchitectureResult(
        method=problem.spec.method,
        stopped=stopped,
        trials=len(history.told),
        failed=len(history.failed),
        seconds=sum(seen.seconds for seen in history.told),
        cost=cost,
        image_size=image_size,
        networks=tuple(found.network(at) for at, key in enumerate(problem.space.keys) if key in shown),
        devices=devices,
        sites=tuple(found.site(site) for site in found.model.sites),
        agreement=found.agreement(),
        history=found.steps(),
    )


class _Found:
    """The model, asked for what the result says."""

    def __init__(self, problem: ArchitectureProblem, history: History) -> None:
        self.problem, self.space, self.history = problem, problem.space, history
        self.options = self.space.networks[problem.anchor].student
        self.model: DiceModel = problem.model(history.told)
        self.mean, self.covariance = self.model.posterior()
        self.trials = Counter(seen.trial.key for seen in history.told)
        self.longest: dict[str, int] = {}
        for seen in history.told:
            self.longest[seen.trial.key] = max(self.longest.get(seen.trial.key, 0), seen.trial.steps)

    def difference(self, a: int, b: int) -> Difference:
        """Dice points of network ``a`` over ``b``."""
        points, far = float(self.mean[a] - self.mean[b]), Z * self._sd(a, b)
        return Difference(points=points, low=points - far, high=points + far)

    def _sd(self, a: int, b: int) -> float:
        c = self.covariance
        return float(np.sqrt(max(0.0, c[a, a] + c[b, b] - 2 * c[a, b])))

    def network(self, at: int) -> NetworkResult:
        network = self.space.networks[at]
        return NetworkResult(
            key=network.key,
            student=network.student,
            params=network.params,
            macs=network.macs,
            dice=float(self.mean[at]) / POINTS,
            sd=float(np.sqrt(max(0.0, self.covariance[at, at]))) / POINTS,
            trials=self.trials[network.key],
            steps=self.longest.get(network.key, 0),
        )

    def device(self, device: Device) -> DeviceResult:
        within = np.flatnonzero(device.fits)
        best = within[front(self.mean[within], device.latency[within])].tolist()
        chosen, reason = self._choice(device, within, best)
        target = device.target
        return DeviceResult(
            name=target.name,
            profile=Path(target.source).stem if target.source.endswith(".toml") else target.source,
            evidence=device.evidence,
            latency_ms=target.latency_ms,
            memory_mib=target.memory_mib,
            sites=target.sites,
            front=tuple(self._member(device, at) for at in best),
            chosen=self.space.keys[chosen],
            reason=reason,
            variants=variant_checks(self.space, device, best, self.options, self.difference),
            p95_ms={key: device.estimates[at].p95_ms for at, key in enumerate(self.space.keys) if key in self.trials},
        )

    def _choice(self, device: Device, within: np.ndarray, members: Sequence[int]) -> tuple[int, str]:
        """Which member of the front, and why."""
        fastest, best = members[0], members[-1]
        limit = f"{len(within)} networks within {device.target.latency_ms:g} ms"
        limit += f" and {device.target.memory_mib:g} MiB" if device.target.memory_mib else ""
        # Within a budget a millisecond less is worth nothing: what is not told apart goes by the posterior's mean, too.
        # On three real sites the fastest was 3.7 points [0.4, 8.5] below the paper's accurate, the mean's choice 1.8.
        chosen = next(at for at in members if self.mean[best] - self.mean[at] <= EQUAL_POINTS)
        dice = (
            f"expected Dice {self.mean[chosen] / POINTS:.3f} ± {np.sqrt(self.covariance[chosen, chosen]) / POINTS:.3f}"
        )
        reason = f"The highest {dice} of the {limit}."
        if chosen != best:
            reason = f"The fastest of those within {EQUAL_POINTS} points of the best, {dice}, of the {limit}."
        if not any(self.difference(best, at).told_apart for at in within):
            reason += " The trials tell it apart from no other: more, longer or full ones would."
        elif chosen != fastest and not (gap := self.difference(chosen, fastest)).told_apart:
            reason += (
                f" The fastest is not told apart from it (95 % interval {gap.low:+.1f} to {gap.high:+.1f} points)."
            )
        return chosen, reason

    def _member(self, device: Device, at: int) -> FrontMember:
        cost, network, spec = device.estimates[at], self.space.networks[at], self.problem.spec
        fitness = self.mean[at] / POINTS - spec.latency_weight * cost.p95_ms / 1e3
        fitness -= spec.params_weight * network.params / 1e6 + spec.flops_weight * 2 * network.macs / 1e9
        return FrontMember(
            key=network.key, p50_ms=cost.p50_ms, p95_ms=cost.p95_ms, peak_mib=cost.peak_mib, fitness=float(fitness)
        )

    def site(self, site: str) -> SiteEffect:
        trials = sum(seen.trial.site == site for seen in self.history.told)
        failed = sum(trial.site == site for trial in self.history.failed)
        effect = self.model.effect(self.problem.anchor, site) / POINTS
        return SiteEffect(site=site, effect=effect, trials=trials, failed=failed)

    def steps(self) -> tuple[Step, ...]:
        """Each observation; ``best`` is the highest posterior of an affordable network tried so far."""
        steps, best = [], -np.inf
        known = [seen for seen in self.history.told if seen.trial.key in self.space.index]
        for number, seen in enumerate(known, 1):
            at = self.space.index[seen.trial.key]
            best = max(best, self.mean[at]) if self.problem.usable[at] or best == -np.inf else best
            corrected = self._corrected(seen) / POINTS
            steps.append(Step.of(number, seen, corrected=corrected, best=float(best) / POINTS))
        return tuple(steps)

    def _corrected(self, seen: Observation) -> float:
        """Points less what the anchor gains or loses at that site and by that many steps."""
        return POINTS * seen.dice - self.model.effect(self.problem.anchor, seen.trial.site, seen.trial.steps)

    def agreement(self) -> Agreement | None:
        """Between the briefest trials and trainings in full, or, without any, the longest trials."""
        told = [seen for seen in self.history.told if seen.trial.key in self.space.index]
        full = any(seen.trial.why == "full" for seen in told)
        brief = [s for s in told if s.trial.why != "full" and s.trial.steps == self.problem.rungs[0]]
        most = max((s.trial.steps for s in told if s.trial.why != "full"), default=0)
        long = [s for s in told if (s.trial.why == "full" if full else s.trial.steps == most)]
        if not brief or not long or (not full and most == self.problem.rungs[0]):
            return None
        scores = self._means(brief), self._means(long)
        keys = sorted(set(scores[0]) & set(scores[1]))
        a, b = (np.array([score[key] for key in keys]) for score in scores)
        steps = self.problem.rungs[0], long[0].trial.steps
        return agreement(a, b, steps=steps, full=full, seed=self.problem.spec.seed)

    def _means(self, told: Sequence[Observation]) -> dict[str, float]:
        """Corrected points by network, weighted by 1 / se^2."""
        weights = dict(zip((seen.trial.id for seen in told), errors(told), strict=True))
        found: dict[str, list[tuple[float, float]]] = {}
        for seen in told:
            found.setdefault(seen.trial.key, []).append((self._corrected(seen), weights[seen.trial.id] ** -2))
        return {key: sum(v * w for v, w in pairs) / sum(w for _, w in pairs) for key, pairs in found.items()}
