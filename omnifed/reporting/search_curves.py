"""The progress of a search and the gain of the weights it found, as inline SVG."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from omnifed.reporting.figures import _TEXT, _svg
from omnifed.search.results import SiteWeights, Step, WeightResult

_GREY, _GREEN = "#7f7f7f", "#0d9a73"
_FIDELITY = ("#7f7f7f", "#2a7fc0", "#9a6cc8", "#cf7a00", "#c95c9c")


def progress(name: str, history: Sequence[Step]) -> str:
    """Each observation and the best so far by the number of the trial, as inline SVG; empty without observations."""
    if not history:
        return ""
    fidelities = sorted({step.steps for step in history})

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for i, steps in enumerate(fidelities):
            some = [step for step in history if step.steps == steps]
            axes.plot(
                [step.number for step in some],
                [step.corrected for step in some],
                linestyle="none",
                marker="os^Dv"[i % 5],
                ms=4.5,
                color=_FIDELITY[i % 5],
                label=f"trial of {steps} steps",
            )
        numbers, best = [step.number for step in history], [step.best for step in history]
        axes.step(numbers, best, where="post", color=_GREEN, lw=1.8, label="best so far (posterior)")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("trial")
        axes.set_ylabel("validation Dice, site effect removed")
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))

    return _svg(name, draw, 7.6, 3.0)


def gains(result: WeightResult) -> str:
    """The gain over Table 3's mean with its 95 % interval, a line a site, as inline SVG."""
    rows: list[SiteWeights] = [result.universal, *result.sites]

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.axvline(0, color=_TEXT, lw=1.0)
        for i, row in enumerate(rows):
            gain, tint = row.gain, _GREEN if row.gain.told_apart else _GREY
            bars = np.array([[gain.points - gain.low], [gain.high - gain.points]]).clip(0)
            axes.errorbar(gain.points, i, xerr=bars, fmt="D" if i == 0 else "o", ms=5, lw=1.5, color=tint)
        axes.set_yticks(range(len(rows)), [row.site for row in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("gain over Table 3's mean [Dice points]")

    return _svg("gains", draw, 7.0, 0.9 + 0.3 * len(rows))
