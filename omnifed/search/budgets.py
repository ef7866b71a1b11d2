"""What each network takes on a class of devices, against what it may take. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from omnifed.devices.measurement import Estimate, Evidence
from omnifed.errors import OmniFedError
from omnifed.search.space import Space
from omnifed.search.spec import Target


class Device:
    """A target with the costs of all networks.

    Args:
        target: with its budgets.
        space: the networks.
        estimates: by architecture key.

    Attributes:
        latency: (N,) logarithm of p95 in milliseconds: networks spread over ratios.
        over: (N, 1 or 2) p95 / budget - 1, and the same of the peak memory where it has a budget.
        fits: (N,) whether a network is within the budgets.
        evidence: of the figures; ``modelled`` where they differ in it.

    Raises:
        OmniFedError: OF740 if no network is within the budgets.
    """

    def __init__(self, target: Target, space: Space, estimates: Mapping[str, Estimate]) -> None:
        self.target = target
        self.estimates = tuple(estimates[key] for key in space.keys)
        p95 = np.array([one.p95_ms for one in self.estimates])
        peak = np.array([one.peak_mib for one in self.estimates])
        self.latency = np.log(p95)
        pairs = [(p95, target.latency_ms), (peak, target.memory_mib)]
        self.over = np.stack([figures / most - 1 for figures, most in pairs if most], 1)
        self.fits: np.ndarray = np.all(self.over <= 0, axis=1)
        kinds = {one.evidence for one in self.estimates}
        self.evidence: Evidence = kinds.pop() if len(kinds) == 1 else "modelled"
        if not self.fits.any():
            raise self._too_small(space)

    def _too_small(self, space: Space) -> OmniFedError:
        fastest = int(self.latency.argmin())
        smallest = min(range(len(space)), key=lambda i: (self.estimates[i].peak_mib, i))
        memory = f" and {self.target.memory_mib:g} MiB" if self.target.memory_mib else ""
        return OmniFedError(
            "OF740",
            "A device's budget must leave at least one network of the search's space.",
            seen=f"{self.target.name} allows {self.target.latency_ms:g} ms{memory}; the fastest network, "
            f"{space.keys[fastest]}, takes {self.estimates[fastest].p95_ms:.1f} ms (p95) and "
            f"{self.estimates[fastest].peak_mib:.0f} MiB there, and none takes less than "
            f"{self.estimates[smallest].peak_mib:.0f} MiB",
            remedy="Raise the target's latency_ms or memory_mib, or let the search take smaller alpha and beta or "
            "stem_stride 2.",
        )
