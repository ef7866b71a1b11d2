"""`omnifed`: look at data, models and reports. Commands import what they need when they run."""

from __future__ import annotations

from typing import Annotated

import typer

import omnifed
from omnifed.cli.shared import App

app = App(
    name="omnifed",
    help="Federated, edge-native training for medical image segmentation: look at data, models and reports.",
)


def _tell(version: bool) -> None:
    if version:
        typer.echo(omnifed.__version__)
        raise typer.Exit


@app.callback()
def _commands(
    version: Annotated[
        bool, typer.Option("--version", callback=_tell, is_eager=True, help="The release, and nothing else.")
    ] = False,
) -> None:
    pass
