"""The Pareto fronts of an architecture search as SVG, within the page or as a file."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from omnifed.files import write_atomic
from omnifed.reporting.figures import _svg
from omnifed.search.results import ArchitectureResult, DeviceResult, NetworkResult

_TRIED, _FRONT, _CHOSEN, _PAPER, _LIMIT = "#7f7f7f", "#2a7fc0", "#0d9a73", "#cf7a00", "#c0392b"
_WIDTH, _HEIGHT = 7.6, 4.2


def pareto(result: ArchitectureResult, device: DeviceResult) -> str:
    """Dice against p95 latency on one class of devices, as inline SVG."""
    place = result.devices.index(device)
    return _svg(f"pareto{place}", lambda figure: _one(figure, result, device), _WIDTH, _HEIGHT)


def tried(result: ArchitectureResult) -> str:
    """Dice against multiply-accumulates of every network of the result, as inline SVG."""

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        _tried(axes, result)
        _side_legend(axes)

    return _svg("tried", draw, _WIDTH, _HEIGHT)


def write_pareto(result: ArchitectureResult, path: Path) -> None:
    """Writes the Pareto plots of all classes of devices as one SVG file that stands alone.

    Args:
        result: of the search.
        path: of the file; replaced as a whole.

    Raises:
        OmniFedError: OF103 if it cannot be written.
    """
    columns = min(2, len(result.devices) + 1)
    rows = math.ceil((len(result.devices) + 1) / columns)

    def draw(figure: Figure) -> None:
        grid = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes, device in zip(grid, result.devices, strict=False):
            _device(axes, result, device)
            axes.set_title(f"{device.name} ({device.evidence})")
        last = grid[len(result.devices)]
        _tried(last, result)
        last.set_title("all networks")
        for axes in grid[len(result.devices) + 1 :]:
            axes.set_visible(False)
        handles = _handles(grid)
        figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=4)

    text = _svg("pareto", draw, 6.0 * columns, 0.6 + 4.0 * rows)
    text = text.replace(' aria-hidden="true" focusable="false"', "").replace("currentColor", "#1c2126")
    text = text.replace("var(--line)", "#d3d9dd")
    start = text.index(">") + 1
    text = f'{text[:start]}<rect width="100%" height="100%" fill="#fff"/>{text[start:]}'
    write_atomic(path, f'<?xml version="1.0" encoding="utf-8"?>\n{text}'.encode())


def latencies(device: DeviceResult) -> dict[str, float]:
    """p95 latency in ms by architecture key, as far as the result holds it."""
    shown = {v.key: v.p95_ms for v in device.variants} | {m.key: m.p95_ms for m in device.front}
    return {**device.p95_ms, **shown}


def variant_dice(result: ArchitectureResult, device: DeviceResult, name: str) -> float | None:
    """Dice of one of the paper's variants; from its difference to the front where it was not tried itself."""
    dice = {network.key: network.dice for network in result.networks}
    variant = next(v for v in device.variants if v.name == name)
    if variant.key in dice:
        return dice[variant.key]
    known = variant.difference is not None and variant.better in dice
    return dice[variant.better] - variant.difference.points / 100 if known and variant.difference else None


def _one(figure: Figure, result: ArchitectureResult, device: DeviceResult) -> None:
    axes = figure.add_subplot()
    _device(axes, result, device)
    _side_legend(axes)


def _device(axes: Axes, result: ArchitectureResult, device: DeviceResult) -> None:
    p95, front = latencies(device), {member.key for member in device.front}
    known = [network for network in result.networks if network.key in p95]
    line = sorted((n for n in known if n.key in front), key=lambda n: p95[n.key])
    axes.plot([p95[n.key] for n in line], [n.dice for n in line], color=_FRONT, lw=1.4, label="front")
    _points(axes, [n for n in known if n.key not in front], p95, _TRIED, "network off the front", "o")
    _points(axes, line, p95, _FRONT, "on the front", "o")
    chosen = [(p95[n.key], n.dice) for n in line if n.key == device.chosen]
    axes.plot(*_columns(chosen), "o", ms=13, mfc="none", mec=_CHOSEN, mew=2.0, linestyle="none", label="chosen")
    dice_of = [(v, variant_dice(result, device, v.name)) for v in device.variants]
    paper = [(v.p95_ms, dice, v.name) for v, dice in dice_of if dice is not None]
    xy = _columns([(x, y) for x, y, _ in paper])
    axes.plot(*xy, "D", ms=6.5, mfc="none", mec=_PAPER, mew=1.8, linestyle="none", label="the paper's variant")
    axes.axvline(device.latency_ms, color=_LIMIT, lw=1.6, linestyle="--", label=f"budget {device.latency_ms:g} ms")
    _logarithmic(axes, [*p95.values(), device.latency_ms])
    for x, y, name in paper:
        _name(axes, x, y, name, device.latency_ms)
    size = " x ".join(map(str, result.image_size))
    axes.set_xlabel(f"p95 latency of one {size} image [ms], {device.evidence}")
    axes.set_ylabel("validation Dice (bars: ± 1 sd)")


def _name(axes: Axes, x: float, y: float, name: str, limit: float) -> None:
    """Fronts rise to the right: a name has room below on the right, or above on the left of an edge or the budget."""
    place, wall = (axes.transAxes.inverted().transform(axes.transData.transform((at, y)))[0] for at in (x, limit))
    cramped = place > 0.8 or place <= wall < place + 0.2
    offset, side = ((-7, 6), "right") if cramped else ((7, -12), "left")
    axes.annotate(name, (x, y), xytext=offset, textcoords="offset points", color=_PAPER, ha=side)


def _tried(axes: Axes, result: ArchitectureResult) -> None:
    macs = {network.key: network.macs / 1e9 for network in result.networks}
    front = {member.key for device in result.devices for member in device.front}
    chosen = {device.chosen for device in result.devices}
    _points(axes, [n for n in result.networks if n.key not in front], macs, _TRIED, "network off the front", "o")
    _points(axes, [n for n in result.networks if n.key in front], macs, _FRONT, "on the front", "o")
    rings = [(macs[n.key], n.dice) for n in result.networks if n.key in chosen]
    axes.plot(*_columns(rings), "o", ms=13, mfc="none", mec=_CHOSEN, mew=2.0, linestyle="none", label="chosen")
    _logarithmic(axes, macs.values())
    axes.set_xlabel(f"multiply-accumulates of one {' x '.join(map(str, result.image_size))} image [G], exact")
    axes.set_ylabel("validation Dice (bars: ± 1 sd)")


def _points(
    axes: Axes, networks: Iterable[NetworkResult], x: dict[str, float], tint: str, label: str, marker: str
) -> None:
    """Networks with a bar of one posterior standard deviation; hollow where no trial was done."""
    found = list(networks)
    for some, face, words in (
        ([n for n in found if n.trials], tint, label),
        ([n for n in found if not n.trials], "none", f"{label}, not tried"),
    ):
        if some:
            place, dice, sd = [x[n.key] for n in some], [n.dice for n in some], [n.sd for n in some]
            axes.errorbar(
                place, dice, yerr=sd, fmt=marker, ms=5, mfc=face, mec=tint, ecolor=tint, elinewidth=0.8, label=words
            )


def _columns(pairs: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in pairs], [y for _, y in pairs]


def _logarithmic(axes: Axes, values: Iterable[float]) -> None:
    known = [value for value in values if value > 0]
    if not known:
        return
    axes.set_xscale("log")
    axes.margins(x=0.1, y=0.12)
    ratio = max(known) / min(known)
    subs = (1, 2, 3, 5, 7) if ratio < 30 else (1, 2, 5)
    axes.xaxis.set_major_locator(LogLocator(subs=subs) if ratio > 4 else MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _handles(grid: Iterable[Axes]) -> dict[str, Any]:
    """Legend handles of several panels by label; the figure of the budget differs between them and is left out."""
    found: dict[str, Any] = {}
    for axes in grid:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault("budget" if label.startswith("budget ") else label, handle)
    return found


def _side_legend(axes: Axes) -> None:
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
