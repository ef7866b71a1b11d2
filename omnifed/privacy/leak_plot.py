"""The attacks on a student as one picture. Needs matplotlib."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from omnifed.privacy.leak import Scores
from omnifed.privacy.membership import MOST_FALSE, SiteAudit, roc

MEMBERS, OTHERS, GUESS = "#cf7a00", "#2a7fc0", "#7f7f7f"
LINES = {"loss": ("-", MEMBERS), "confidence": ("--", "#0d9a73"), "calibrated": (":", "#9a6cc8")}
_STYLE: Any = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "text.parse_math": False}


def leak_plot(audits: list[tuple[SiteAudit, Scores]]) -> bytes:
    """A row a site: the ROC curves with the diagonal of guessing, and the losses of both groups of patients.

    Args:
        audits: sites with their attacks' scores; sites without attacks are left out.

    Returns:
        A PNG file.
    """
    shown = [(audit, scores) for audit, scores in audits if scores]
    with rc_context(_STYLE):
        figure = Figure(figsize=(10.5, 0.4 + 3.4 * len(shown)), layout="constrained")
        rows = figure.subplots(len(shown), 2, squeeze=False)
        for (audit, scores), (left, right) in zip(shown, rows, strict=True):
            _curves(left, audit, scores)
            _losses(right, audit, *(-values for values in scores["loss"]))
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=120, metadata={"Software": None})
    return buffer.getvalue()


def _curves(axes: Axes, audit: SiteAudit, scores: Scores) -> None:
    axes.plot([0, 1], [0, 1], color=GUESS, lw=1, label="guessing")
    axes.axvline(MOST_FALSE, color=GUESS, lw=0.6, ls=":")
    for attack in audit.attacks:
        label = f"{attack.name}: {attack.auc:.2f} [{attack.low:.2f}, {attack.high:.2f}]"
        style, colour = LINES[attack.name]
        axes.plot(*roc(*scores[attack.name]), style, color=colour, lw=1.5, label=label)
    axes.set(xlabel="other patients taken for training patients", ylabel="training patients found")
    axes.set_title(f"{audit.site} {audit.arm}", loc="left")
    axes.set(xlim=(0, 1), ylim=(0, 1.02), aspect="equal")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False, title="AUC, 95 % interval", fontsize=8)


def _losses(axes: Axes, audit: SiteAudit, members: np.ndarray, others: np.ndarray) -> None:
    both = np.concatenate([members, others])
    edges = np.histogram_bin_edges(both, bins=min(20, 2 + len(members) // 2)).tolist()
    for values, colour, name in ((members, MEMBERS, "training"), (others, OTHERS, "other")):
        share = np.full(len(values), 1 / len(values))
        text = f"{len(values)} {name} patients"
        axes.hist(values, edges, weights=share, histtype="stepfilled", color=colour, alpha=0.45, label=text)
    axes.set(xlabel="loss of the student on a patient", ylabel="share of patients")
    axes.legend(frameon=False, fontsize=8)
