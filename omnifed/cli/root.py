"""`omnifed`: check a site's data, describe students, rebuild reports. Commands import what they need when they run."""

from __future__ import annotations

from omnifed.cli.shared import App

app = App(
    name="omnifed",
    help="Federated, edge-native training for medical image segmentation: look at data, models and reports.",
)


@app.callback()
def _commands() -> None:
    # Without a callback typer makes a single command the whole program.
    pass
