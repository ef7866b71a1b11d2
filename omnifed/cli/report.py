"""``omnifed report``: builds a run's page again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from omnifed.cli.root import app


@app.command("report")
def report(
    run: Annotated[Path, typer.Argument(help="Folder that omnifed-sim wrote.", show_default=False)],
) -> None:
    """Build RUN/report.html again from the files of the run folder.

    Example: `omnifed report runs/first`
    """
    from omnifed.reporting.report import write_report

    typer.echo(str(write_report(run)))
