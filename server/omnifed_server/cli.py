"""`omnifed-server`: the coordinator's command."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from omnifed.cli.shared import App
from omnifed.errors import OmniFedError
from omnifed_server import identity_cli

if TYPE_CHECKING:
    from omnifed_server.federation_file import FederationConfig

app = App(
    name="omnifed-server",
    no_args_is_help=False,
    help="""Coordinates a federation between real machines: teaches, trains, averages, evaluates; never sees an image.

**Examples**

`omnifed-server --federation FED.toml` runs the campaign, or goes on with it after a crash

`omnifed-server --federation FED.toml --insecure` plain HTTP without identity, to try it on one machine

`omnifed-server status runs/NAME` where it stands: sites, rounds, Dice, bytes, misses

`omnifed-server stop runs/NAME` ends it cleanly; `omnifed-server resume runs/NAME` goes on

`omnifed-server init identity --name NAME --server HOST:PORT` founds the federation, once; then `admit`, `roster`

Exit status: 0 finished, 2 wrong input, 3 paused (it needs a person; finished work is kept), 4 Flower cannot run,
130 Ctrl-C, 143 SIGTERM.
""",
)
app.add_typer(identity_cli.commands)

Run = Annotated[Path, typer.Argument(help="Folder of the campaign.")]
Plain = Annotated[bool, typer.Option("--lines", help="Plain lines instead of the live table.")]


@app.callback(invoke_without_command=True)
def main(
    context: typer.Context,
    federation: Annotated[Path | None, typer.Option(help="The campaign's file; see server/example.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the campaign instead of the file's.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Plain HTTP, on a loopback address only.")] = False,
    lines: Plain = False,
) -> None:
    """Runs a campaign, or goes on with it."""
    if context.invoked_subcommand is not None:
        return
    if federation is None:
        raise OmniFedError(
            "OF144",
            "A coordinator must be given a campaign.",
            remedy="Run: omnifed-server --federation FED.toml (server/example/federation.toml shows all settings).",
        )
    from omnifed_server.federation_file import load_federation

    given = {"host": host, "port": port, "insecure": insecure or None, "folder": str(out) if out else None}
    config = load_federation(federation, **{key: value for key, value in given.items() if value is not None})
    raise typer.Exit(_coordinate(config, config.run_folder, lines=lines))


@app.command()
def resume(run: Run, lines: Plain = False) -> None:
    """Goes on with a campaign that was stopped or has paused.

    Example: `omnifed-server resume runs/NAME`
    """
    config = _stored(run)
    raise typer.Exit(_coordinate(config, run, lines=lines))


@app.command()
def status(run: Run) -> None:
    """Shows where a campaign stands.

    Example: `omnifed-server status runs/NAME`
    """
    from rich.console import Console

    from omnifed.processes import holder
    from omnifed.tail import Tail
    from omnifed_server.app_files import EVENTS
    from omnifed_server.board import Board
    from omnifed_server.view import render

    config = _stored(run)
    board = Board()
    for event in Tail(run / EVENTS).read():
        board.add(event)
    console = Console()
    console.print(render(board))
    pid = holder(run / "server.lock")
    console.print(f"{config.name}: " + (f"runs as process {pid}" if pid else "no coordinator runs"))


@app.command()
def stop(
    run: Run, wait: Annotated[float, typer.Option(help="Seconds to wait for its end; it is left then.")] = 60.0
) -> None:
    """Ends a running campaign cleanly; everything that is finished is kept.

    Example: `omnifed-server stop runs/NAME`
    """
    from omnifed.processes import holder

    _stored(run)
    lock = run / "server.lock"
    pid = holder(lock)
    if pid is None:
        typer.echo("no coordinator runs there")
        return
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    until = time.monotonic() + wait
    while holder(lock) == pid:
        if time.monotonic() >= until:
            raise OmniFedError(
                "OF556", "A coordinator that is told to stop must end.", seen=f"process {pid}", remedy=f"kill -9 {pid}"
            )
        time.sleep(0.2)
    typer.echo(f"stopped; go on with: omnifed-server resume {run}")


def _stored(run: Path) -> FederationConfig:
    from omnifed.config import parse
    from omnifed_server.app_files import CONFIG
    from omnifed_server.federation_file import FederationConfig as Model

    file = run / CONFIG
    if not file.is_file():
        raise OmniFedError(
            "OF145", "Only a coordinator's run folder has a campaign.", seen=str(run), remedy="Check the path."
        )
    import json

    return parse(Model, json.loads(file.read_bytes()), str(file))


def _coordinate(config: FederationConfig, folder: Path, *, lines: bool) -> int:
    from omnifed.processes import Stop, stoppable
    from omnifed_server.screen import open_screen
    from omnifed_server.supervisor import BROKEN, Coordinator

    with open_screen(config, folder, lines=lines) as screen, stoppable():
        try:
            return Coordinator(config, folder, screen.say).run(screen.tick)
        except Stop as stop:
            screen.say(f"stopped; go on with: omnifed-server resume {folder}")
            return stop.status
        except OmniFedError as error:
            if error.code != "OF555":
                raise
            screen.say(str(error))
            return BROKEN
