"""The table at the end of a run."""

from __future__ import annotations

import math
from pathlib import Path

from rich.table import Table
from rich.text import Text

from omnifed.evaluation.tables import TEACHER
from omnifed.reporting.run import CENTRAL, Run, load_run


def summary_table(run: Path) -> Table:
    """Mean foreground Dice on the test cases with its 95 % interval: sites down, arms across, the best in bold.

    Args:
        run: the run folder.

    Raises:
        OmniFedError: OF422 or OF423, as :func:`omnifed.reporting.run.load_run`.
    """
    loaded = load_run(run)
    columns = [*loaded.arms, *([TEACHER] if any(r.arm == TEACHER for r in loaded.metrics) else [])]
    table = Table(title="Dice on the test cases, mean and 95 % interval by patient", title_justify="left")
    table.add_column("site", no_wrap=True)
    for arm in columns:
        table.add_column(f"{arm} (ceiling)" if arm == CENTRAL else arm, justify="right")
    for site in loaded.site_names:
        name = f"{site} (held out)" if loaded.held_out(site) else site
        table.add_row(name, *_cells(loaded, columns, site))
    table.add_section()
    means = {arm: loaded.site_mean(arm) for arm in columns}
    best = loaded.best_arm({a: v for a, v in means.items() if a != TEACHER})
    table.add_row("mean of sites", *(Text(_number(means[a]), style="bold" if a == best else "") for a in columns))
    return table


def _cells(run: Run, columns: list[str], site: str) -> list[Text]:
    rows = {arm: run.score(arm, site) for arm in columns}
    best = run.best_arm({a: r.mean for a, r in rows.items() if r and a != TEACHER})
    cells = []
    for arm, row in rows.items():
        why = run.withheld(arm, site)
        text = Text(why or _number(row.mean if row else math.nan), style="bold" if arm == best else "")
        if row and not math.isnan(row.ci_low):
            text.append(f"\n{row.ci_low:.2f}..{row.ci_high:.2f}", style="dim")
        cells.append(text)
    return cells


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"
