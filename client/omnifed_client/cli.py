"""`omnifed-client`: the hospital's command."""

from __future__ import annotations

import typer

from omnifed.cli.shared import App
from omnifed.errors import OmniFedError

app = App(
    name="omnifed-client", help="The hospital's side of a federation between real machines.", no_args_is_help=False
)


@app.callback(invoke_without_command=True)
def main(context: typer.Context) -> None:
    """Arrives with the deployed federation; today one machine runs everything: `omnifed-sim`."""
    raise OmniFedError(
        "OF110",
        "omnifed-client arrives with the deployed federation.",
        remedy="Use omnifed-sim: it runs the same tasks, sites and rounds on one machine.",
    )
