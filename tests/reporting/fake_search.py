"""Results of searches made by hand: a front of four, one of them never tried, and weights that cannot be told apart."""

from __future__ import annotations

import json
from pathlib import Path

from omnifed.distill.spec import LAMBDA
from omnifed.models.base import SiteSpec
from omnifed.models.scaling import architecture_key, costs
from omnifed.models.spec import PRESETS, StudentSpec
from omnifed.search.results import (
    Agreement,
    ArchitectureResult,
    DeviceResult,
    Difference,
    FrontMember,
    NetworkResult,
    SiteEffect,
    SiteWeights,
    Step,
    VariantCheck,
    WeightResult,
)

SITES = ("north", "south <b>")
SIZE = (128, 128)
PAPER = {name: StudentSpec(alpha=a, beta=b, stem_stride=2) for name, (a, b) in PRESETS.items()}
SMALL, MIDDLE, OFF = (
    StudentSpec(alpha=a, beta=b, stem_stride=2) for a, b in ((0.6, 0.8), (0.8, 1.2), (1.5, 0.6))
)  # fmt: skip
COMPACT, BALANCED = PAPER["compact"], PAPER["balanced"]
DICE = {
    "compact": (COMPACT, 0.612, 0.012, 6),
    "small": (SMALL, 0.655, 0.010, 5),
    "middle": (MIDDLE, 0.701, 0.015, 0),
    "balanced": (BALANCED, 0.688, 0.009, 4),
    "off": (OFF, 0.622, 0.014, 2),
}
HISTORY = tuple(
    Step(number=n, site=SITES[n % 2], key=architecture_key(spec), steps=steps, why="model", **dice)
    for n, (spec, steps, dice) in enumerate(
        [
            (BALANCED, 20, {"dice": 0.60, "corrected": 0.61, "best": 0.61}),
            (COMPACT, 20, {"dice": 0.58, "corrected": 0.57, "best": 0.61}),
            (SMALL, 20, {"dice": 0.66, "corrected": 0.65, "best": 0.64}),
            (SMALL, 60, {"dice": 0.69, "corrected": 0.70, "best": 0.655}),
        ],
        1,
    )
)


def network(spec: StudentSpec, dice: float, sd: float, trials: int) -> NetworkResult:
    cost = costs(spec, SiteSpec(channels=1, classes=2), SIZE)
    return NetworkResult(
        key=architecture_key(spec), student=spec, params=cost.params, macs=cost.macs, dice=dice, sd=sd, trials=trials,
        steps=60 if trials else 0,
    )  # fmt: skip


def member(spec: StudentSpec, p95: float) -> FrontMember:
    return FrontMember(
        key=architecture_key(spec), p50_ms=p95 * 0.9, p95_ms=p95, peak_mib=60 + p95, fitness=0.6 + p95 / 1000
    )


def variant(name: str, p95: float, better: StudentSpec | None, points: float, low: float, high: float) -> VariantCheck:
    return VariantCheck(
        name=name,
        key=architecture_key(PAPER[name]),
        p95_ms=p95,
        peak_mib=60 + p95,
        fits=p95 <= 50,
        better=architecture_key(better) if better else "",
        difference=Difference(points=points, low=low, high=high) if better else None,
        verdict=f"The verdict on {name}.",
    )


def device(**changes: object) -> DeviceResult:
    front = [(COMPACT, 21.5), (SMALL, 26.0), (BALANCED, 38.25), (MIDDLE, 47.0)]
    values: dict[str, object] = {
        "name": "raspberry-pi-4",
        "profile": "raspberry-pi-4",
        "evidence": "modelled",
        "latency_ms": 50.0,
        "memory_mib": 0.0,
        "sites": SITES,
        "front": tuple(member(spec, p95) for spec, p95 in front),
        "chosen": architecture_key(MIDDLE),
        "reason": "It has the best posterior Dice within the budget.",
        "variants": (
            variant("compact", 21.5, COMPACT, 0.0, -0.5, 0.5),
            variant("balanced", 38.25, BALANCED, 0.0, -0.5, 0.5),
            variant("accurate", 96.0, MIDDLE, -1.9, -4.0, 0.2),
        ),
    }
    return DeviceResult.model_validate(values | changes)


def architecture(**changes: object) -> ArchitectureResult:
    values: dict[str, object] = {
        "method": "surrogate",
        "stopped": "the budget of 24 is spent",
        "trials": 17,
        "failed": 1,
        "seconds": 312.0,
        "cost": 1.234,
        "image_size": SIZE,
        "networks": tuple(network(*row) for row in DICE.values()),
        "devices": (device(),),
        "sites": (
            SiteEffect(site=SITES[0], effect=0.031, trials=9, failed=0),
            SiteEffect(site=SITES[1], effect=-0.031, trials=8, failed=1),
        ),
        "agreement": Agreement(brief=20, long=400, full=True, networks=6, tau=0.6, low=0.1, high=1.0),
        "history": HISTORY,
    }
    return ArchitectureResult.model_validate(values | changes)


def site_weights(site: str, points: float, low: float, high: float, **weights: float) -> SiteWeights:
    return SiteWeights(
        site=site,
        weights=LAMBDA["universal"] | weights,  # type: ignore[operator]
        dice=0.7 + points / 100,
        sd=0.011,
        gain=Difference(points=points, low=low, high=high),
        fitness=0.69,
        step_seconds=0.0456,
        universal_loss=0.4,
        trials=12,
    )


def weights(**changes: object) -> WeightResult:
    values: dict[str, object] = {
        "stopped": "the budget of 12 at each site is spent",
        "trials": 24,
        "failed": 0,
        "seconds": 200.0,
        "gamma": 0.05,
        "term_seconds": {"logits": 0.002, "features": 0.004, "attention": 0.003, "relation": 0.005, "context": 0.006},
        "base_seconds": 0.02,
        "latency_ms": 47.0,
        "universal": site_weights("universal", 0.3, -0.9, 1.5, features=2.25),
        "sites": (
            site_weights(SITES[0], 0.8, -0.4, 2.0, logits=0.0, context=2.95),
            site_weights(SITES[1], 0.5, -1.1, 2.1, relation=1.3),
        ),
        "told_apart": False,
        "history": HISTORY,
    }
    return WeightResult.model_validate(values | changes)


def make_search_run(folder: Path, found: ArchitectureResult | None = None, lambdas: WeightResult | None = None) -> Path:
    """A run folder that holds a search alone, with what is given of the two."""
    (folder / "search").mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"preset": "hospitals", "data": "", "arms": [], "seed": 0}))
    for name, result in (("architecture", found), ("weights", lambdas)):
        if result:
            (folder / "search" / f"{name}.json").write_text(result.model_dump_json())
    return folder
