"""The figures of an export as one picture. Needs matplotlib."""

from __future__ import annotations

import io
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from omnifed.devices.measurement import ENGINES
from omnifed.export.choose import Row
from omnifed.export.publish import Published

BARS, CHOSEN = "#7f9db9", "#0d6a9a"
_STYLE: Any = {"svg.hashsalt": "omnifed", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}


def export_plot(published: Published) -> bytes:
    """Bars of latency, with the loss beside them, of file size and of peak memory; what was chosen is darker.

    Args:
        published: what was measured.

    Returns:
        An SVG file, the same for the same figures.
    """
    rows = published.rows[::-1]
    with rc_context(_STYLE):
        figure = Figure(figsize=(9.5, 1.3 + 0.38 * len(rows)), layout="constrained")
        latency, size, memory = figure.subplots(1, 3, sharey=True, width_ratios=(2.2, 1, 1))
        _bars(latency, published, [row.p50_ms for row in rows], [_text(row) for row in rows], room=1.9)
        latency.set_xlabel(f"ms an image, median, {published.threads} thread(s)")
        _bars(size, published, [row.bytes / 1e6 for row in rows], [f"{row.bytes / 1e6:.1f}" for row in rows])
        size.set_xlabel("file in MB")
        _bars(memory, published, [row.peak_mib for row in rows], [f"{row.peak_mib:.0f}" for row in rows])
        memory.set_xlabel("peak memory in MiB")
        shape = " x ".join(map(str, published.card.image_size))
        figure.suptitle(f"{shape}, {published.cases} cases, {published.machine}", fontsize=8.5)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def _text(row: Row) -> str:
    if row.precision == "fp32":
        return f"{row.p50_ms:.1f} ms"
    interval = "" if row.loss_low is None else f" [{row.loss_low:.2f}, {row.loss_high:.2f}]"
    return f"{row.p50_ms:.1f} ms, loss {row.loss:.2f}{interval}"


def _bars(axes: Axes, published: Published, values: list[float], texts: list[str], room: float = 1.4) -> None:
    rows = published.rows[::-1]
    colours = [CHOSEN if row.variant == published.chosen else BARS for row in rows]
    bars = axes.barh([f"{row.precision}, {ENGINES[row.engine]}" for row in rows], values, color=colours)
    axes.bar_label(bars, texts, padding=3, fontsize=8)
    axes.set_xlim(0, max(values) * room)
