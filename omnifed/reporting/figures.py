"""Diagrams as inline SVG: text stays text, and takes the page's colours in light and dark."""

from __future__ import annotations

import io
import math
import re
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from omnifed.evaluation.tables import TEACHER
from omnifed.reporting.run import Run

# After Okabe and Ito, with a contrast that holds on white and on dark; never the only sign: markers differ too.
COLOURS = {
    "local": "#7f7f7f",
    "fedavg": "#cf7a00",
    "fedprox": "#9a6cc8",
    "fedbn": "#2a7fc0",
    "omnikd": "#0d9a73",
    "central": "#c95c9c",
    TEACHER: "#8a7a1c",
}
MARKERS = {"local": "o", "fedavg": "s", "fedprox": "D", "fedbn": "^", "omnikd": "P", "central": "v", TEACHER: "*"}
_SPARE = ("#b5542b", "#4b9c2e", "#5a6fd0", "#a3417a")
_TEXT, _LINE = "#010203", "#010204"
_PANELS = 12
_MEAN_OF_SITES = "mean of the sites"
_STYLE: Any = {
    "text.parse_math": False,  # a site or label may hold a dollar sign
    "svg.fonttype": "none",
    "svg.hashsalt": "omnifed",
    "font.size": 9,
    "text.color": _TEXT,
    "axes.edgecolor": _LINE,
    "axes.labelcolor": _TEXT,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": _LINE,
    "grid.linewidth": 0.6,
    "xtick.color": _TEXT,
    "ytick.color": _TEXT,
    "legend.frameon": False,
}


def colour(arm: str) -> str:
    """The colour of an arm, the same in every figure of a report."""
    return COLOURS.get(arm, _SPARE[sum(map(ord, arm)) % len(_SPARE)])


def dice_by_site(run: Run, arms: list[str]) -> str:
    """Mean Dice with its interval: one line a site, one mark an arm."""
    sites = list(run.site_names)

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        offsets = np.linspace(-0.32, 0.32, len(arms)) if len(arms) > 1 else np.zeros(1)
        for arm, offset in zip(arms, offsets, strict=True):
            rows = [(i, r) for i, s in enumerate(sites) if (r := run.score(arm, s))]
            x = np.array([r.mean for _, r in rows])
            y = np.array([i + offset for i, _ in rows])
            low = np.array([r.mean - r.ci_low for _, r in rows])
            high = np.array([r.ci_high - r.mean for _, r in rows])
            bars = np.nan_to_num(np.array([low, high]).reshape(2, -1)).clip(0)
            axes.errorbar(
                x, y, xerr=bars, fmt=MARKERS.get(arm, "o"), ms=5, lw=1.3, color=colour(arm), label=arm, linestyle="none"
            )
        axes.set_yticks(range(len(sites)), [f"{s} (held out)" if run.held_out(s) else s for s in sites])
        axes.set_ylim(len(sites) - 0.5, -0.5)
        axes.set_xlabel("mean Dice on the test cases")
        axes.grid(axis="y", visible=False)
        for i in range(1, len(sites)):
            axes.axhline(i - 0.5, color=_LINE, lw=0.6)
        _legend(figure, axes, arms)

    return _svg("dice", draw, 9.0, 1.0 + 0.13 * len(arms) * len(sites) + 0.1 * len(sites))


def curves(run: Run) -> str:
    """Validation Dice by round: one panel a site (one panel of means where there are many sites)."""
    points: dict[tuple[str, str], list[tuple[int, float]]] = defaultdict(list)
    for e in run.of("round"):
        if _finite(e.get("dice")) and _finite(e.get("round")):
            points[str(e.get("site")), str(e.get("arm"))].append((int(e["round"]), float(e["dice"])))
    sites = [s for s in run.site_names if any(key[0] == s for key in points)]
    for e in run.of("aggregate"):  # private rounds tell no site's Dice
        if _finite(e.get("dice")) and _finite(e.get("round")):
            points[_MEAN_OF_SITES, str(e.get("arm"))].append((int(e["round"]), float(e["dice"])))
            sites = [*sites, *([_MEAN_OF_SITES] if _MEAN_OF_SITES not in sites else [])]
    if len(sites) > _PANELS:
        pooled: dict[tuple[str, str], list[tuple[int, float]]] = defaultdict(list)
        for (_, arm), pairs in points.items():
            pooled[f"mean of {len(sites)} sites", arm] += pairs
        points, sites = pooled, [f"mean of {len(sites)} sites"]
    if not sites:
        return ""
    arms = [a for a in run.arms if any(key[1] == a for key in points)]
    columns = min(3, len(sites))
    rows = math.ceil(len(sites) / columns)

    def draw(figure: Figure) -> None:
        grid = figure.subplots(rows, columns, sharey=True, sharex=True, squeeze=False).ravel()
        for axes, site in zip(grid, sites, strict=False):
            for arm in arms:
                by_round: dict[int, list[float]] = defaultdict(list)
                for r, dice in points[site, arm]:
                    by_round[r].append(dice)
                x = sorted(by_round)
                y = [float(np.mean(by_round[r])) for r in x]
                axes.plot(np.array(x) + 1, y, marker=MARKERS.get(arm, "o"), ms=4, lw=1.4, color=colour(arm), label=arm)
            axes.set_title(site)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        for axes in grid[len(sites) :]:
            axes.set_visible(False)
        for i, axes in enumerate(grid[: len(sites)]):
            if i % columns == 0:
                axes.set_ylabel("validation Dice")
            if i + columns >= len(sites):
                axes.set_xlabel("round")
                axes.tick_params(labelbottom=True)
        _legend(figure, grid[0], arms)

    return _svg("curves", draw, 9.0 if columns > 1 else 6.0, 0.5 + 2.0 * rows)


def loss_parts(run: Run, arm: str) -> str:
    """Each part of one arm's training loss by round, mean over sites; logarithmic where the parts allow it."""
    parts: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for e in run.of("round"):
        if e.get("arm") == arm and isinstance(e.get("loss"), dict) and _finite(e.get("round")):
            for name, value in e["loss"].items():
                if _finite(value):
                    parts[str(name)][int(e["round"])].append(float(value))
    if not parts or max(len(v) for v in parts.values()) < 2:
        return ""
    palette = [*COLOURS.values(), *_SPARE]
    markers = "os^DPvX*<>"

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        lowest = math.inf
        for i, (name, by_round) in enumerate(parts.items()):
            x = sorted(by_round)
            y = [float(np.mean(by_round[r])) for r in x]
            lowest = min(lowest, *y)
            axes.plot(
                np.array(x) + 1,
                y,
                marker=markers[i % len(markers)],
                ms=4,
                lw=1.4,
                color=palette[i % len(palette)],
                label=name,
            )
        if lowest > 0:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.yaxis.set_minor_formatter(NullFormatter())
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("round")
        axes.set_ylabel("mean over steps and sites")
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))

    return _svg("loss", draw, 7.5, 3.0)


def _legend(figure: Figure, axes: Axes, arms: list[str]) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=min(7, max(1, len(arms))), handletextpad=0.3)


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _svg(name: str, draw: Callable[[Figure], None], width: float, height: float) -> str:
    """Draws and returns an ``<svg>`` with ids of its own and the page's colours for text and lines."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        figure.patch.set_alpha(0)
        draw(figure)
        for axes in figure.axes:
            axes.patch.set_alpha(0)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", text)
    text = text.replace("<svg", '<svg aria-hidden="true" focusable="false"', 1)
    return text.replace(_TEXT, "currentColor").replace(_LINE, "var(--line)")
