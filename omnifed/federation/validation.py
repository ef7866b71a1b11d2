"""What an update must be, beyond its names, shapes and finite numbers, to count in a round.

These are checked when a reply comes (:meth:`omnifed.federation.aggregation.StreamingMean.check`). How long an update
may be is known only when the round's others are there: it is checked before they are averaged.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Mapping

import numpy as np

from omnifed.errors import OmniFedError
from omnifed.privacy.spec import AggregationSpec

FAR = 10.0
"""An update may be this many times as long as the median of the others in its round."""
FEWEST = 3
"""Updates in a round from which on they say something of each other."""
MOST = 1e5
"""L2 norm that no update of a training reaches, whoever the others are."""


def update_norm(state: Mapping[str, np.ndarray], held: Mapping[str, np.ndarray]) -> float:
    """L2 norm of ``state - held`` over the floating-point arrays of ``held``, in float64.

    Args:
        state: finite arrays; what ``held`` does not name (local layers) is left out, as is what ``state`` lacks.
        held: what the site held when it began to train.
    """
    square = 0.0
    for key, value in held.items():
        if value.dtype.kind == "f" and key in state:
            difference = np.subtract(state[key], value, dtype=np.float64).ravel()
            square += float(difference @ difference)
    return math.sqrt(square)


def too_long(
    norms: Mapping[str, float], aggregation: AggregationSpec, *, alone: Collection[str] = (), reach: float = 0.0
) -> dict[str, OmniFedError]:
    """The updates that may not be averaged, and why.

    A site whose gate refused the average (unlike sites may) has gone on from its own weights: its update is what it and
    the average have moved apart since, while the others' shrink from round to round. It may be twice as long as the
    usual updates of all rounds together: one way for the site, the other for the average.

    Args:
        norms: L2 norm of each site's update in one round.
        aggregation: ``robust`` refuses none, as its rule bounds what a long update can do.
        alone: sites that went on from their own weights, as they say; none where sites may not refuse.
        reach: sum of the median norms of all rounds before.

    Returns:
        By site, an OF860.
    """
    if aggregation.mode == "robust":
        return {}
    found = {}
    for site, norm in norms.items():
        others = [other for name, other in norms.items() if name != site]
        usual = statistics.median(others) if len(norms) >= FEWEST else 0.0
        # Where the others did not move at all, they say nothing of how far one may move.
        limit = min(MOST, max(FAR * usual, 2 * (reach + usual) if site in alone else 0.0)) if usual > 0 else MOST
        if norm > limit:
            found[site] = OmniFedError(
                "OF860",
                f"An update is at most {FAR:g} times as long as the median of the others in its round.",
                seen=f"L2 norm {norm:.4g} from {site}, at most {limit:.4g}",
                remedy="Look at this site's data, learning rate and loss; aggregation mode robust bounds such updates.",
            )
    return found
