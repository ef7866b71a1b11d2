"""`omnifed-client`: the hospital's command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from omnifed.cli.shared import App
from omnifed_client import audit_cli, epsilon_cli, identity_cli, policy_cli

app = App(
    name="omnifed-client",
    no_args_is_help=False,
    help="""Runs a hospital's side of a federation: checks the data, connects, works, and keeps its state.

**Examples**

`omnifed-client --site chaos_ct` with `sites/chaos_ct.toml`, or the one in the user's configuration folder

`omnifed-client --site chaos_ct --data DATA/chaos_ct` without a file; the kit knows the coordinator

`omnifed-client --site chaos_ct --data DATA/chaos_ct --server 127.0.0.1:8000 --insecure` on one machine

`omnifed-client --site chaos_ct --once` one task, then leave

`omnifed-client doctor --site chaos_ct` tests everything that can go wrong, before joining

`omnifed-client enrol --site chaos_ct`, once; send the request, then `omnifed-client join chaos_ct-kit.json`
""",
)
app.add_typer(identity_cli.commands)
app.add_typer(epsilon_cli.commands)
app.add_typer(policy_cli.commands, name="policy")
app.add_typer(audit_cli.commands, name="audit")

Site = Annotated[str, typer.Option(help="Registered name of the site.")]
Data = Annotated[Path | None, typer.Option(help="Folder with site.toml and index.csv.")]
Server = Annotated[str | None, typer.Option(help="The coordinator's address, HOST:PORT.")]
State = Annotated[Path | None, typer.Option(help="Private folder for teacher, models and replies.")]
Roots = Annotated[Path | None, typer.Option(help="PEM file of the authority behind the coordinator's certificate.")]
Insecure = Annotated[bool, typer.Option("--insecure", help="Plain HTTP, to this machine only.")]
Config = Annotated[Path | None, typer.Option(help="Configuration file instead of sites/NAME.toml.")]


@app.callback(invoke_without_command=True)
def main(
    context: typer.Context,
    site: Site = "",
    data: Data = None,
    server: Server = None,
    state: State = None,
    root_certificates: Roots = None,
    insecure: Insecure = False,
    config: Config = None,
    once: Annotated[bool, typer.Option("--once", help="Leave after one task.")] = False,
    metrics_port: Annotated[int | None, typer.Option(help="Port of a Prometheus page on this machine.")] = None,
) -> None:
    """Joins the federation as one site."""
    if context.invoked_subcommand is not None:
        return
    from omnifed.processes import Stop, stoppable
    from omnifed_client.guarded import identity_of, policy_of
    from omnifed_client.supervisor import Site as Running
    from omnifed_client.view import open_screen

    loaded = _load(site, data, server, state, root_certificates, insecure, config, metrics_port=metrics_port)
    policy_of(loaded, identity_of(loaded))
    with open_screen(loaded) as screen, stoppable():
        running = Running(loaded, screen.say, once=once)
        try:
            status = running.run(screen.tick)
        except Stop as stop:
            screen.say("stopped; what is finished is kept, start again to go on")
            status = stop.status
    raise typer.Exit(status)


@app.command()
def doctor(
    site: Site = "",
    data: Data = None,
    server: Server = None,
    state: State = None,
    root_certificates: Roots = None,
    insecure: Insecure = False,
    config: Config = None,
) -> None:
    """Tests everything that can go wrong, before joining, and names the remedy.

    Example: `omnifed-client doctor --site chaos_ct`
    """
    from rich.console import Console

    from omnifed_client.doctor import examine, print_findings

    loaded = _load(site, data, server, state, root_certificates, insecure, config)
    raise typer.Exit(print_findings(examine(loaded), Console()))


def _load(
    site: str,
    data: Path | None,
    server: str | None,
    state: Path | None,
    roots: Path | None,
    insecure: bool,
    config: Path | None,
    **options: Any,
) -> Any:
    from omnifed.errors import OmniFedError
    from omnifed_client.config import load_client

    if not site:
        raise OmniFedError(
            "OF143", "A client must be told which site it is.", remedy="Give --site NAME, the name in site.toml."
        )
    values = {"data": data, "server": server, "state": state, "insecure": insecure or None, **options}
    return load_client(site, file=config, root_certificates=str(roots) if roots else None, **values)
