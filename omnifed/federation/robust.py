"""Rules that bound what one site can do to the average: every update is visible, and read as often as a rule needs.

With one of six sites sending 100 times its update, the mean is off by a factor of twenty; a rule of these by a third or
less (``benchmarks/robust.py``). None stops a site that stays within the norm of the others and is wrong on purpose.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from omnifed.federation.aggregation import StreamingMean, Update, mean_of
from omnifed.federation.validation import update_norm
from omnifed.models.slices import take
from omnifed.privacy.spec import AggregationSpec
from omnifed.states import State

CHUNK_BYTES = 64 * 2**20
"""What the median holds of all sites together, at a time."""
Piece = tuple[str, int, int]
"""Elements ``start:stop`` of an array, flattened."""
Rule = Callable[..., State]


def combine(
    spec: AggregationSpec, held: Mapping[str, np.ndarray], updates: Sequence[Update], *, partial: bool = False
) -> State:
    """The updates of a round as one state, by the rule of the campaign.

    Args:
        spec: ``mean`` or ``robust``; what ``private`` sums is never seen here.
        held: global state that the sites began from: names, shapes and dtypes, and the values of what nobody sends.
        updates: in the order of the sites.
        partial: names may be missing: each array is combined over those who sent it.

    Raises:
        OmniFedError: as :meth:`~omnifed.federation.aggregation.StreamingMean.add`.
    """
    rule: Rule = RULES[spec.rule] if spec.mode == "robust" else mean_of
    return rule(held, updates, partial=partial)


def clipped_mean(held: Mapping[str, np.ndarray], updates: Sequence[Update], *, partial: bool = False) -> State:
    """The weighted mean of ``held + min(1, m / |u_k|) u_k``, with m the median of the norms |u_k|.

    Two passes: norms, then the mean (Sun et al., "Can you really backdoor federated learning?", 2019, with the bound
    taken from the round itself). A slice of the student has fewer weights and is bounded by the same m. Arguments as
    :func:`combine`'s.
    """
    mean, norms = StreamingMean(held), []
    for update in updates:
        state = update.load()
        if state:
            mean.check(state, update.slice_map, partial=partial)
            norms.append(update_norm(state, _own(held, update)))
    bound = statistics.median(norms) if norms else 0.0
    for update in updates:
        state = update.load()
        if state:
            state = _shortened(state, _own(held, update), bound)
            mean.add(state, update.weight, update.slice_map, partial=partial)
    return mean.mean()


def median(held: Mapping[str, np.ndarray], updates: Sequence[Update], *, partial: bool = False) -> State:
    """The median of each weight over the sites that hold it (Yin et al., ICML 2018); sites count alike.

    How many cases a site has plays no part, as a site could claim any number; one without cases does not count. Of an
    even number of sites, the middle of the two in the middle. Memory is bounded by :data:`CHUNK_BYTES` and one state:
    the replies are read again for each chunk. Integers are taken from the first site. Arguments as :func:`combine`'s.
    """
    counted = [update for update in updates if update.weight > 0]
    check = StreamingMean(held)
    result = {key: value.copy() for key, value in held.items()}
    integers: State = {}
    for number, pieces in enumerate(_chunks(held, CHUNK_BYTES // (4 * max(1, len(counted))))):
        columns: dict[Piece, list[np.ndarray]] = {piece: [] for piece in pieces}
        for update in counted:
            state = update.load()
            if number == 0 and state:
                check.check(state, update.slice_map, partial=partial)
                for key, value in state.items():
                    if value.dtype.kind != "f":
                        integers.setdefault(update.slice_map[key].key if update.slice_map else key, value.copy())
            large = _spread(state, update, {key for key, _, _ in pieces})
            for (key, start, stop), column in columns.items():
                if key in large:
                    column.append(large[key][start:stop])
        for (key, start, stop), column in columns.items():
            if column:
                flat = result[key].reshape(-1)
                flat[start:stop] = _middle(np.stack(column), flat[start:stop])
    return result | integers


RULES: dict[str, Rule] = {"norm-clip": clipped_mean, "median": median}


def _own(held: Mapping[str, np.ndarray], update: Update) -> Mapping[str, np.ndarray]:
    """What the site of ``update`` held."""
    return take(held, update.slice_map) if update.slice_map else held


def _shortened(state: State, held: Mapping[str, np.ndarray], bound: float) -> State:
    """``state``, its difference from ``held`` shortened to the L2 norm ``bound``; itself if it is not longer."""
    norm = update_norm(state, held)
    if norm <= bound:
        return state

    def short(key: str, value: np.ndarray) -> np.ndarray:
        if value.dtype.kind != "f":
            return value
        origin = held[key].astype(np.float64)
        return np.asarray(origin + bound / norm * (value - origin), dtype=value.dtype)

    return {key: short(key, value) for key, value in state.items()}


def _chunks(held: Mapping[str, np.ndarray], most: int) -> Iterator[list[Piece]]:
    """Pieces of the floating-point arrays, at most ``most`` elements together; at least one list."""
    pieces: list[Piece] = []
    room = most = max(1, most)
    for key, value in held.items():
        start = 0
        while value.dtype.kind == "f" and start < value.size:
            stop = min(value.size, start + room)
            pieces.append((key, start, stop))
            start, room = stop, room - (stop - start)
            if room == 0:
                yield pieces
                pieces, room = [], most
    yield pieces


def _spread(state: State, update: Update, keys: set[str]) -> State:
    """Flat arrays of the whole student's shape; NaN where a slice does not reach."""
    if update.slice_map is None:
        return {key: state[key].reshape(-1) for key in keys & state.keys()}
    large: State = {}
    for key, value in state.items():
        entry = update.slice_map[key]
        if entry.key in keys and value.dtype.kind == "f":
            whole = np.full(entry.large_shape, np.nan, value.dtype)
            whole[entry.index] = value
            large[entry.key] = whole.reshape(-1)
    return large


def _middle(values: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
    """Median over the first axis of (sites, n), NaN left out; ``otherwise`` (n,) where all are NaN."""
    counts = (~np.isnan(values)).sum(0)
    ordered = np.sort(values, axis=0)  # NaN last
    low, high = (np.take_along_axis(ordered, at[None], 0)[0] for at in (np.maximum(counts - 1, 0) // 2, counts // 2))
    middle = (low.astype(np.float64) + high) / 2
    return np.where(counts > 0, middle, otherwise).astype(otherwise.dtype)
