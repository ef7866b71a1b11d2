"""What releases cost: epsilon of composed, subsampled Gaussian mechanisms, by two accountants of Opacus.

The PRV accountant (Gopi et al., Numerical Composition of Differential Privacy, NeurIPS 2021) gives the figure; the RDP
accountant (Mironov et al., 2019), a looser bound of the same, must not contradict it.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np
from opacus.accountants import PRVAccountant, RDPAccountant
from opacus.accountants.utils import get_noise_multiplier

from omnifed.errors import OmniFedError
from omnifed.privacy.dp.ledger import Cost

PRV_ERROR = 0.01
"""By which the PRV accountant's upper bound may exceed the true epsilon, and its lower one stay below: its default."""


def epsilon(costs: Iterable[Cost], delta: float) -> float:
    """Epsilon of all costs together, an upper bound; 0 of none.

    Args:
        costs: in any order.
        delta: at which.

    Raises:
        OmniFedError: OF853 if the accountants fail or contradict each other.
    """
    history = _history(costs)
    if not history:
        return 0.0
    exact, bound = PRVAccountant(), RDPAccountant()
    exact.history, bound.history = list(history), list(history)
    try:
        with _quiet():
            spent, most = float(exact.get_epsilon(delta, eps_error=PRV_ERROR)), float(bound.get_epsilon(delta))
    except (RuntimeError, ValueError, MemoryError) as error:
        raise _unaccounted(f"{type(error).__name__}: {error}") from None
    # The lower bound of the one above the upper bound of the other.
    if not spent - 2 * PRV_ERROR <= most:
        raise _unaccounted(f"PRV {spent:.4g}, RDP {most:.4g}")
    return spent


def noise_multiplier(target: float, delta: float, *, rate: float, steps: int) -> float:
    """The smallest sigma (to 0.01 of epsilon) with which ``steps`` steps cost at most ``target``.

    Args:
        target: epsilon.
        delta: at which.
        rate: probability with which a step takes a patient.
        steps: of the whole arm.

    Raises:
        OmniFedError: OF853 if the accountant finds none.
    """
    try:
        with _quiet():
            sigma = get_noise_multiplier(
                target_epsilon=target, target_delta=delta, sample_rate=rate, steps=steps, accountant="prv"
            )
    except (RuntimeError, ValueError, MemoryError) as error:
        raise _unaccounted(f"{type(error).__name__}: {error}") from None
    return float(sigma)


def _history(costs: Iterable[Cost]) -> list[tuple[float, float, int]]:
    """Opacus's form, equal steps merged and sorted: the same costs give the same figure in any order."""
    steps: dict[tuple[float, float], int] = {}
    for cost in costs:
        key = cost.sigma, cost.rate
        steps[key] = steps.get(key, 0) + cost.steps
    return [(*key, count) for key, count in sorted(steps.items())]


@contextmanager
def _quiet() -> Iterator[None]:
    # A sampling rate of 1 has a logarithm of 0 inside, whose -inf is right; a larger order of RDP would be tighter.
    with np.errstate(divide="ignore", over="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def _unaccounted(seen: str) -> OmniFedError:
    return OmniFedError(
        "OF853",
        "A site trains only what it can account for: both accountants of epsilon must agree.",
        seen=seen,
        remedy="Ask for a larger epsilon, fewer steps or a smaller batch.",
    )
