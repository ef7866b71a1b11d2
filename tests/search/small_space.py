"""A space of few networks, made devices, and searches over them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from omnifed.devices.measurement import Estimate
from omnifed.models.base import SiteSpec
from omnifed.models.spec import StudentSpec
from omnifed.search.architecture import ArchitectureSearch
from omnifed.search.space import Network, enumerate_space
from omnifed.search.spec import ArchitectureSpec, Target
from omnifed.search.trials import History, Observation, Trial

SITE, SIZE, BASE = SiteSpec(3, 2), (64, 64), StudentSpec(stem_stride=2)
SITES = ("a", "b")


def networks(**changes: Any) -> tuple[Network, ...]:
    return enumerate_space(ArchitectureSpec.model_validate(changes), BASE, SITE, SIZE)


def estimate(network: Network) -> Estimate:
    """A millisecond a MMAC, a MiB ten thousand parameters."""
    ms = network.macs / 1e6
    return Estimate(p50_ms=ms, p95_ms=ms, peak_mib=network.params / 1e4, evidence="modelled")


def searching(
    latency_ms: float = 1e6, memory_mib: float = 0.0, sites: tuple[str, ...] = SITES, **changes: Any
) -> ArchitectureSearch:
    spec = ArchitectureSpec.model_validate({"alpha": (0.6, 1.2), "beta": (0.5, 1.2), **changes})
    found = enumerate_space(spec, BASE, SITE, SIZE)
    target = Target(name="pi", latency_ms=latency_ms, memory_mib=memory_mib, sites=sites)
    costs = {"pi": {network.key: estimate(network) for network in found}}
    return ArchitectureSearch("study", spec, BASE, found, costs, [target], sites, full_steps=500)


def seen(trial: Trial, dice: float, se: float = 0.01) -> Observation:
    return Observation(trial=trial, dice=dice, se=se, n=10, seconds=1.0)


def by_size(trial: Trial) -> float:
    """Wider is better, less so at b, and longer is better."""
    return 0.5 + 0.2 * trial.student.beta - 0.2 * (trial.site == "b") + 0.001 * trial.steps


def ran(search: ArchitectureSearch, trials: int, score: Any = by_size, history: History | None = None) -> History:
    """A history of so many observations, told at once."""
    history = history or History()
    while len(history.told) < trials:
        asked = search.ask(history, search.sites[: trials - len(history.told)])
        if not asked:
            break
        told = tuple(seen(trial, score(trial)) for trial in asked)
        history = replace(history, told=history.told + told, asked=history.asked + len(asked))
    return history
