"""Honest updates with a common direction, and what a sixth site may send instead of its own."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from omnifed.federation.aggregation import Update, mean_of
from omnifed.federation.validation import update_norm
from omnifed.states import State

ATTACKS: dict[str, Callable[[State, State, State], State]] = {
    "x100": lambda own, held, other: {k: held[k] + 100 * (own[k] - held[k]) for k in own},
    "sign flip": lambda own, held, other: {k: 2 * held[k] - own[k] for k in own},
    "zero": lambda own, held, other: dict(held),
    "duplicate": lambda own, held, other: dict(other),
}
"""By name: (its own honest state, what it held, another site's state) to what it sends."""


def round_of(sites: int, seed: int) -> tuple[State, list[State]]:
    """What all held, and what each would honestly send."""
    rng = np.random.default_rng([seed])
    held = {"w": rng.normal(size=(40, 10)).astype(np.float32), "b": np.zeros(40, np.float32)}
    common = {k: rng.normal(size=v.shape) for k, v in held.items()}
    return held, [
        {k: (v + common[k] + rng.normal(size=v.shape)).astype(np.float32) for k, v in held.items()}
        for _ in range(sites)
    ]


def error(rule: Callable[..., State], held: State, honest: list[State], attack: str) -> float:
    """Distance of what the rule makes of it, the first site being the attacker, from the mean of the honest six."""
    bad = ATTACKS[attack](honest[0], held, honest[1])
    updates = [Update(lambda s=s: s, 1.0) for s in (bad, *honest[1:])]
    truth = mean_of(held, [Update(lambda s=s: s, 1.0) for s in honest])
    return update_norm(rule(held, updates), truth)
