"""What the page says of the two searches: results turned into the tables, sentences and figures of the template."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from markupsafe import Markup

from omnifed.distill.spec import TERMS
from omnifed.reporting import search_curves, search_figures
from omnifed.reporting.run import Run
from omnifed.reporting.search_words import (
    EVIDENCE,
    METHOD,
    TABLE3,
    agreement_words,
    chosen_words,
    names_of,
    told_apart_words,
    where,
)
from omnifed.search.results import ArchitectureResult, DeviceResult, FrontMember, NetworkResult, WeightResult
from omnifed.search.spec import MEASURED

_ROWS = 12
HIGHEST = 3.0
"""Upper bound of each lambda in the search; the darkest of the table."""


def search_context(run: Run) -> dict[str, Any]:
    """What the blocks of the template read; None for a search that the run has not done."""
    return {
        "architecture": _architecture(run.architecture) if run.architecture else None,
        "weights": _weights(run.weights) if run.weights else None,
        "search_line": " · ".join(_line(run)),
    }


def search_sentences(run: Run) -> Iterator[str]:
    """The searches in the page's summary."""
    if run.architecture:
        yield from (chosen_words(run.architecture, device) for device in run.architecture.devices)
    if run.weights:
        yield f"OmniKD weights: {told_apart_words(run.weights)}"


def _line(run: Run) -> Iterator[str]:
    """What was searched, for the page's head."""
    for name, result in (("architecture search", run.architecture), ("search for OmniKD's weights", run.weights)):
        if result:
            yield f"{name}, {result.trials} trials"


def _architecture(result: ArchitectureResult) -> dict[str, Any]:
    return {
        "result": result,
        "size": " × ".join(map(str, result.image_size)),
        "method": METHOD.get(result.method, result.method),
        "steps": sorted({step.steps for step in result.history}),
        "tried": sum(network.trials > 0 for network in result.networks),
        "devices": [_device(result, device) for device in result.devices],
        "figure": Markup(search_figures.tried(result)),
        "progress": Markup(search_curves.progress("progress-networks", result.history)),
        "agreement": list(agreement_words(result.agreement)),
    }


def _device(result: ArchitectureResult, device: DeviceResult) -> dict[str, Any]:
    names, networks = names_of(result), {network.key: network for network in result.networks}
    members = [m for m in device.front if m.key in networks]
    rows = [(m, networks[m.key], names(m.key)) for m in _spread(members, networks, device.chosen)]
    return {
        "device": device,
        "title": where(device),
        "figure": Markup(search_figures.pareto(result, device)),
        "words": chosen_words(result, device),
        "evidence": EVIDENCE[device.evidence],
        "measured": device.profile == MEASURED,
        "front": rows,
        "all": len(members),
        "untried": sum(not network.trials for _, network, _ in rows),
        "variants": [(v, names(v.key), names(v.better) if v.better else "") for v in device.variants],
    }


def _spread(members: list[FrontMember], networks: dict[str, NetworkResult], chosen: str) -> list[FrontMember]:
    """The chosen one, those that were tried, and others spread over the front: a page shows a dozen, not fifty."""
    kept = {i for i, m in enumerate(members) if m.key == chosen or networks[m.key].trials}
    places = max(2, _ROWS - len(kept))
    kept |= {round(i * (len(members) - 1) / (places - 1)) for i in range(places)} if members else set()
    return [m for i, m in enumerate(members) if i in kept]


def _weights(result: WeightResult) -> dict[str, Any]:
    steps = result.base_seconds + sum(result.term_seconds.values())
    return {
        "result": result,
        "terms": TERMS,
        "table3": TABLE3,
        "rows": [result.universal, *result.sites],
        "words": told_apart_words(result),
        "heat": lambda value: f"{0.55 * min(value, HIGHEST) / HIGHEST:.2f}",
        "steps": sorted({step.steps for step in result.history}),
        "costs": [(term, result.term_seconds[term]) for term in TERMS if term in result.term_seconds],
        "all_seconds": steps,
        "gains": Markup(search_curves.gains(result)),
        "progress": Markup(search_curves.progress("progress-weights", result.history)),
    }
