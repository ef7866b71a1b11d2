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


from omnifed.cli import data as data  # noqa: E402
from omnifed.cli import describe as describe  # noqa: E402
from omnifed.cli import report as report  # noqa: E402
