"""Dice against latency, a panel an engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from matplotlib.transforms import Bbox

PANELS = (
    ("ort fp32 1", "ONNX Runtime, fp32"),
    ("openvino fp32 1", "OpenVINO, fp32"),
    ("openvino bf16 1", "OpenVINO, bf16"),
)
PLACES = [
    (dx, dy, side)
    for far in (0, 9, 18, 27, 36, 48)
    for dx, side in ((7, "left"), (-7, "right"), (0, "center"))
    for dy in (far, -far)
    if dx or dy
]
"""Of a label, in points from its point, the nearest first."""
STUDENT, RIVAL, LINE = "#0b6e99", "#8c8c8c", "#9cc7d8"


class Point(NamedTuple):
    """A network in a panel: ms of one image, Dice 0..1, and its names."""

    ms: float
    dice: float
    label: str
    student: bool


def short(name: str) -> str:
    """A network's label: ``omnisegnet:compact,stem_stride=2,head=shuffle`` is ``compact, stem 2, shuffle head``."""
    family, colon, rest = name.partition(":")
    return ", ".join(map(_option, rest.split(","))) if colon else family


def _option(text: str) -> str:
    key, equals, value = text.partition("=")
    if not equals:
        return key
    if value in ("true", "false"):
        return key if value == "true" else f"no {key}"
    return f"{value} {key}" if value.isalpha() else f"{key.partition('_')[0]} {value}"


def front(points: Sequence[Point]) -> list[Point]:
    """Those that none beats or equals in both, by latency."""
    best: list[Point] = []
    for point in sorted(points, key=lambda p: (p.ms, -p.dice)):
        if not best or point.dice > best[-1].dice:
            best.append(point)
    return best


def plot(dice: Mapping[str, float], latency: Mapping[str, Any], image_size: int, out: Path) -> list[Path]:
    """Draws ``pareto.svg`` and ``pareto.png``.

    Args:
        dice: mean test Dice by network.
        latency: figures by network, as `edge_latency.py` writes them; a network without is left out.
        image_size: side of the measured image in pixels.
        out: folder.

    Returns:
        The two files.
    """
    figure = Figure(figsize=(6.2 * len(PANELS), 5.6), layout="constrained")
    axes = figure.subplots(1, len(PANELS), sharey=True)
    for ax, (way, title) in zip(axes, PANELS, strict=True):
        points = [
            Point(latency[name]["latency"][way]["p50_ms"], value, short(name), ":" in name)
            for name, value in dice.items()
            if way in latency.get(name, {}).get("latency", {})
        ]
        _panel(ax, points, title, image_size)
    axes[0].set_ylabel("mean test Dice")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    figure.set_layout_engine("none")  # what is measured now stays where it is
    for ax in axes:
        _separate(ax, canvas.get_renderer())
    files = [out / "pareto.svg", out / "pareto.png"]
    with matplotlib.rc_context({"svg.hashsalt": "omnifed"}):
        figure.savefig(files[0], metadata={"Date": None})
    figure.savefig(files[1], dpi=110)
    return files


def _panel(ax: Axes, points: Sequence[Point], title: str, image_size: int) -> None:
    ax.set_title(title)
    ax.set_xscale("log")
    ax.set_xlabel(f"ms an image of {image_size} x {image_size}, one thread")
    ax.grid(alpha=0.25)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    line = front(points)
    ax.plot([p.ms for p in line], [p.dice for p in line], color=LINE, lw=1.5, zorder=1)
    for student, colour, marker, text in ((False, RIVAL, "s", "rivals"), (True, STUDENT, "o", "students")):
        chosen = [p for p in points if p.student == student]
        ax.scatter(
            [p.ms for p in chosen], [p.dice for p in chosen], c=colour, marker=marker, s=38, label=text, zorder=3
        )
    for p in points:
        weight = "bold" if p in line else "normal"
        ax.annotate(p.label, (p.ms, p.dice), fontsize=7.5, color=STUDENT if p.student else "#555555", weight=weight,
                    xytext=(6, 0), textcoords="offset points", va="center", zorder=4)  # fmt: skip
    ax.margins(x=0.16, y=0.1)
    ax.legend(frameon=False, loc="lower right", fontsize=8)


def _separate(ax: Axes, renderer: RendererAgg) -> None:
    """Moves each label to the first place around its point where it covers no point, no label and no border."""
    centres = [centre for part in ax.collections for centre in ax.transData.transform(part.get_offsets())]
    taken = [Bbox.from_bounds(x - 4, y - 4, 8, 8) for x, y in centres]
    taken.append(ax.get_legend().get_window_extent(renderer))  # type: ignore[union-attr]
    for text in sorted(ax.texts, key=lambda text: -text.xy[1]):  # type: ignore[attr-defined]
        for dx, dy, side in PLACES:
            text.set_position((dx, dy))
            text.set_ha(side)
            box = text.get_window_extent(renderer)
            if _inside(box, ax) and not any(box.overlaps(other) for other in taken):
                break
        taken.append(text.get_window_extent(renderer))


def _inside(box: Bbox, ax: Axes) -> bool:
    frame = ax.get_window_extent()
    return frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
