"""The paper's variants held against a front. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from omnifed.models.scaling import architecture_key
from omnifed.models.spec import PRESETS, StudentSpec
from omnifed.search.budgets import Device
from omnifed.search.results import Difference, VariantCheck
from omnifed.search.space import Space


def variant_checks(
    space: Space,
    device: Device,
    members: Sequence[int],
    options: StudentSpec,
    difference: Callable[[int, int], Difference],
) -> tuple[VariantCheck, ...]:
    """Those of the variants that the space holds.

    For one on the front the member of at most its latency is itself, since no other there is as fast and better.

    Args:
        space: the networks.
        device: with its budgets.
        members: positions of the front's networks, fastest first.
        options: the student whose options the variants take.
        difference: Dice points of a network over another.
    """
    checks = []
    for name, (alpha, beta) in PRESETS.items():
        at = space.index.get(architecture_key(options.model_copy(update={"alpha": alpha, "beta": beta})))
        if at is not None:
            as_fast = [one for one in members if device.latency[one] <= device.latency[at]]
            better = as_fast[-1] if as_fast else None
            gap = None if better is None else difference(better, at)
            fits, cost = bool(device.fits[at]), device.estimates[at]
            checks.append(
                VariantCheck(
                    name=name,
                    key=space.keys[at],
                    p95_ms=cost.p95_ms,
                    peak_mib=cost.peak_mib,
                    fits=fits,
                    better="" if better is None else space.keys[better],
                    difference=gap,
                    verdict=_verdict(name, gap, on_front=at in members, fits=fits),
                )
            )
    return tuple(checks)


def _verdict(name: str, gap: Difference | None, *, on_front: bool, fits: bool) -> str:
    over = "" if fits else " It is over the budget."
    if on_front:
        return f"{name} lies on the front."
    if gap is None:
        return f"No network within the budgets is as fast as {name}.{over}"
    if not gap.told_apart:
        return f"The front's member of at most its latency is not told apart from {name}.{over}"
    word = "better" if gap.points > 0 else "worse"
    return f"The front's member of at most its latency is {abs(gap.points):.1f} points {word} than {name}.{over}"
