"""An update and its figures as one vector of 32-bit numbers whose sums are exact.

A value x of weight w, |w x| <= b, becomes the whole number round(w x s) with s = ((2^31 - 1) / n - 1) / b for n sites:
the sum of all sites stays below 2^31, and rounding changes a sum by half a step 1 / s a site at most.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from omnifed.distill.spec import TERMS
from omnifed.errors import OmniFedError
from omnifed.states import State

_LOSSES = ("total", "ce", "dice", "proximal", *(f"kd_{term}" for term in TERMS))
FIGURES: dict[str, float] = {
    **{"dice": 1.0, "adopted": 1.0, "accepted": 1.0},
    **{f"loss/{name}": 100.0 for name in _LOSSES},
    **{f"scales/{term}": 100.0 for term in TERMS},
}
"""Figures of a fit that are part of the sum, each with its bound: what is larger counts as that. All sites have a place
for all of them, so that the vector's length tells nothing."""
_HEAD = 2 + 2 * len(FIGURES)


@dataclass(frozen=True)
class Sums:
    """What a sum of vectors says.

    Attributes:
        update: sum of w * delta by name, float64.
        weight: sum of w.
        sites: number of vectors in it.
        figures: weighted mean of each figure, over the sites that have it.
    """

    update: State
    weight: float
    sites: int
    figures: dict[str, float]


@dataclass(frozen=True)
class Layout:
    """What the places of the vector mean.

    Attributes:
        held: the global state before the round; its arrays of floats, by name, are what is added up.
        sites: of the round, all that were asked.
        clip: largest L2 norm of an update.
    """

    held: Mapping[str, np.ndarray]
    sites: int
    clip: float

    @property
    def keys(self) -> list[str]:
        """Names of the arrays that are added up, in their order."""
        return sorted(key for key, value in self.held.items() if value.dtype.kind == "f")

    @property
    def size(self) -> int:
        """Length of the vector."""
        return _HEAD + sum(self.held[key].size for key in self.keys)

    def encode(self, state: Mapping[str, np.ndarray], share: float, figures: Mapping[str, float]) -> np.ndarray:
        """The vector of one site.

        Args:
            state: what it trained, with the names and shapes of ``held``.
            share: its weight, 0..1.
            figures: those of :data:`FIGURES` that it has.

        Returns:
            (:attr:`size`,) uint32. An update that is longer than ``clip`` is shortened to it.

        Raises:
            OmniFedError: OF505 if the update is not finite, OF848 for other names or shapes.
        """
        if any(key not in state or state[key].shape != self.held[key].shape for key in self.keys):
            raise OmniFedError(
                "OF848",
                "A private round adds up the same arrays of all sites: one student, its whole global part.",
                seen="names or shapes differ from what the coordinator sent",
                remedy="Train one student at all sites, or use aggregation = mean.",
            )
        delta = [np.asarray(state[key], np.float64).ravel() - np.ravel(self.held[key]) for key in self.keys]
        norm = math.sqrt(sum(float(part @ part) for part in delta))
        if not math.isfinite(norm):
            raise OmniFedError(
                "OF505",
                "Figures and weights that leave a site must be finite numbers.",
                remedy="Look at the site's loss; lower the learning rate or check its images.",
            )
        factor = share * min(1.0, self.clip / norm) * self._scale(self.clip) if norm else 0.0
        parts = [self._head(share, figures), *(np.rint(part * factor) for part in delta)]
        return np.concatenate(parts).astype(np.int32).view(np.uint32)

    def decode(self, total: np.ndarray) -> Sums:
        """What the sum of vectors, (:attr:`size`,) uint32, says."""
        whole = total.view(np.int32).astype(np.float64)
        head, rest = whole[:_HEAD], whole[_HEAD:] / self._scale(self.clip)
        update: State = {}
        for key in self.keys:
            size = self.held[key].size
            update[key], rest = rest[:size].reshape(self.held[key].shape), rest[size:]
        figures = {}
        for place, (name, bound) in enumerate(FIGURES.items()):
            value, share = head[2 + 2 * place] / self._scale(bound), head[3 + 2 * place] / self._scale(1.0)
            if share > 0:
                figures[name] = float(value / share)
        return Sums(update, float(head[0] / self._scale(1.0)), int(head[1]), figures)

    def plausible(self, sums: Sums, sites: int) -> bool:
        """Whether ``sums`` can be those of ``sites`` honest vectors: their number, and a length within their clips."""
        length = math.sqrt(sum(float(np.vdot(part, part)) for part in sums.update.values()))
        rounding = sites * math.sqrt(self.size) / self._scale(self.clip)
        most = self.clip * sums.weight * 1.001 + rounding
        return sums.sites == sites and 0 <= sums.weight <= sites * 1.001 and length <= most

    def apply(self, sums: Sums) -> State:
        """The new global state: held + sum of w delta / sum of w; whole numbers keep their values."""
        if sums.weight <= 0:
            return dict(self.held)
        moved = {
            key: np.asarray(self.held[key] + part / sums.weight, self.held[key].dtype)
            for key, part in sums.update.items()
        }
        return {key: moved.get(key, value) for key, value in self.held.items()}

    def _head(self, share: float, figures: Mapping[str, float]) -> np.ndarray:
        head = np.zeros(_HEAD)
        head[:2] = np.rint(share * self._scale(1.0)), 1
        for place, (name, bound) in enumerate(FIGURES.items()):
            if name in figures and math.isfinite(figures[name]):
                value = min(bound, max(-bound, figures[name]))
                head[2 + 2 * place] = np.rint(share * value * self._scale(bound))
                head[3 + 2 * place] = head[0]
        return head

    def _scale(self, bound: float) -> float:
        return ((2**31 - 1) // self.sites - 1) / bound
