"""The mean of the sites' weights, as a stream: one running sum, however many sites.

What bounds a single site's influence is in :mod:`omnifed.federation.robust`.

Flower's own FedAvg keeps every reply until the last has come and averages batch-norm's integer counters with the rest;
a coordinator of 200 sites would hold 200 models. FedAvg, FedProx and FedBN need nothing but this mean: they differ in
what is global and in what the sites minimise (McMahan et al., AISTATS 2017; Li et al., MLSys 2020; Li et al., ICLR
2021).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from omnifed.errors import OmniFedError
from omnifed.states import State

if TYPE_CHECKING:
    from omnifed.models.slices import SliceMap

Weighting = Literal["n", "sqrt", "equal"]


def weight(n: int, scheme: Weighting) -> float:
    """Weight of a site with ``n`` training cases: n, sqrt(n) or 1; a site without cases has none."""
    if n <= 0:
        return 0.0
    return {"n": float(n), "sqrt": math.sqrt(n), "equal": 1.0}[scheme]


def share_of(n: int, scheme: Weighting, most: int) -> float:
    """Weight of a site with ``n`` training cases, 0..1: :func:`weight` over that of ``most`` cases, the largest."""
    return weight(min(n, most), scheme) / weight(most, scheme)


@dataclass(frozen=True)
class Update:
    """What one site sent in a round, on disk until it is needed.

    Attributes:
        load: reads the arrays, as they were accepted; called once a pass over all sites. Empty if they are unreadable:
            the site is left out then.
        weight: of the mean, see :func:`weight`.
        slice_map: where a smaller student's arrays lie in the global ones
            (:func:`omnifed.models.slices.slice_map`); None for the whole student.
    """

    load: Callable[[], State]
    weight: float
    slice_map: SliceMap | None = None


def mean_of(previous: Mapping[str, np.ndarray], updates: Iterable[Update], *, partial: bool = False) -> State:
    """The weighted mean of ``updates``, read one after the other; arguments as :class:`StreamingMean`'s."""
    mean = StreamingMean(previous)
    for update in updates:
        state = update.load()
        if state:
            mean.add(state, update.weight, update.slice_map, partial=partial)
    return mean.mean()


class StreamingMean:
    """sum_k w_k x_k / sum_k w_k over the sites k that hold an element, in memory O(1) in the number of sites.

    Sums are float64: adding the same replies in the same order gives the same bits, and another order differs by less
    than the result's float32 can show but for ties. Integers (``num_batches_tracked``) are taken from the first site.

    Args:
        previous: the global state of the round before: the keys, shapes and dtypes that are accepted, and the values
            of what nobody sends.
    """

    def __init__(self, previous: Mapping[str, np.ndarray]) -> None:
        self._previous = dict(previous)
        self._sums = {k: np.zeros(v.shape) for k, v in previous.items() if v.dtype.kind == "f"}
        self._weights: dict[str, float] = dict.fromkeys(self._sums, 0.0)
        self._shares: dict[str, np.ndarray] = {}
        self._first: State = {}

    def keys(self, slice_map: SliceMap | None = None) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the arrays that a site must send."""
        if slice_map is None:
            return {key: value.shape for key, value in self._previous.items()}
        return {key: entry.shape for key, entry in slice_map.items() if entry.key in self._previous}

    def check(
        self, state: Mapping[str, np.ndarray], slice_map: SliceMap | None = None, *, partial: bool = False
    ) -> None:
        """Refuses what may not be averaged, without adding it; with ``partial``, names may be missing.

        Raises:
            OmniFedError: OF507 for a key or shape that does not fit the global state, OF505 for NaN or infinity.
        """
        expected = self.keys(slice_map)
        shapes = {key: value.shape for key, value in state.items()}
        names = shapes.keys() if partial else expected.keys() | shapes.keys()
        wrong = sorted(key for key in names if expected.get(key) != shapes.get(key))
        if wrong:
            key = wrong[0]
            raise OmniFedError(
                "OF507",
                "A site's weights must have the names and shapes of the global part of the student.",
                seen=f"{len(wrong)} of {len(expected)}, first {key}: {shapes.get(key)}, expected {expected.get(key)}",
                remedy="Keep local what differs between sites (stem and head), or train the same student everywhere.",
            )
        if not all(np.isfinite(value).all() for value in state.values() if value.dtype.kind == "f"):
            raise OmniFedError(
                "OF505",
                "Figures and weights that leave a site must be finite numbers.",
                remedy="Look at the site's loss; lower the learning rate or check its images.",
            )

    def add(
        self,
        state: Mapping[str, np.ndarray],
        weight: float,
        slice_map: SliceMap | None = None,
        *,
        partial: bool = False,
    ) -> None:
        """Adds one site.

        Args:
            state: the global part of its student.
            weight: at least 0; 0 adds nothing but integers.
            slice_map: where a smaller student's arrays lie in the global ones
                (:func:`omnifed.models.slices.slice_map`).
            partial: names may be missing: each array is averaged over those who sent it.

        Raises:
            OmniFedError: as :meth:`check`, and OF519 for a weight that is negative or not finite.
        """
        self.check(state, slice_map, partial=partial)
        if not (math.isfinite(weight) and weight >= 0):
            raise OmniFedError("OF519", "A site's weight must be a finite number, at least 0.", seen=str(weight))
        for key, value in state.items():
            if value.dtype.kind != "f":
                self._first.setdefault(slice_map[key].key if slice_map else key, value.copy())
            elif slice_map:
                self._add_slice(key, value, weight, slice_map)
            else:
                self._sums[key] += np.multiply(value, weight, dtype=np.float64)
                self._weights[key] += weight

    def mean(self) -> State:
        """The mean so far, in the dtypes of the previous state; elements that nobody sent keep the previous value."""
        result: State = {}
        for key, old in self._previous.items():
            if key not in self._sums:
                result[key] = self._first.get(key, old)
            elif key in self._shares:
                total = self._shares[key] + self._weights[key]
                held = np.divide(self._sums[key], total, out=old.astype(np.float64), where=total > 0)
                result[key] = held.astype(old.dtype)
            elif self._weights[key] > 0:
                result[key] = np.asarray(self._sums[key] / self._weights[key], dtype=old.dtype)
            else:
                result[key] = old
        return result

    def _add_slice(self, key: str, value: np.ndarray, weight: float, slice_map: SliceMap) -> None:
        entry = slice_map[key]
        share = self._shares.setdefault(entry.key, np.zeros(entry.large_shape))
        self._sums[entry.key][entry.index] += np.multiply(value, weight, dtype=np.float64)
        share[entry.index] += weight
