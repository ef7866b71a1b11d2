"""`omnifed-client audit verify | show`: what came to this site and what left it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from omnifed.cli.shared import App
from omnifed.errors import OmniFedError
from omnifed.trust.audit import AuditLog
from omnifed.trust.audit_entry import Anchor
from omnifed.trust.identity import SiteIdentity
from omnifed_client.identity_cli import Site, State, identity_folder

commands = App(
    help="""What came to this site, what was refused, and what left it: a chain of entries, signed by the site.

**Examples**

`omnifed-client audit verify --site ct` finds every line that was changed, removed, added or moved

`omnifed-client audit verify --site ct --anchor ct.json` also that nothing was rolled back: the coordinator has the file

`omnifed-client audit show --site ct --last 50`
"""
)


@commands.command()
def verify(
    site: Site = "",
    state: State = None,
    anchor: Annotated[Path | None, typer.Option(help="RUN/audit/SITE.json of the coordinator.")] = None,
) -> None:
    """Exit status 0 if the log is whole; else the number and the first bad line.

    Example: `omnifed-client audit verify --site ct --anchor ct.json`
    """
    seen = _anchor(anchor) if anchor else None
    head = _log(site, state).verify(seen)
    console = Console(highlight=False, soft_wrap=True, markup=False)
    if head is None:
        console.print("no entry yet")
        return
    console.print(f"{head.count} entries, whole and signed by {head.site}; the last is {head.hash}", style="green")
    if seen is None:
        console.print("That nothing was rolled back shows the coordinator's anchor alone: --anchor FILE.", style="dim")


@commands.command()
def show(
    site: Site = "",
    state: State = None,
    last: Annotated[int, typer.Option(min=1, help="Entries to show.")] = 20,
) -> None:
    """Shows the last entries.

    Example: `omnifed-client audit show --site ct --last 50`
    """
    table = Table("number", "time (UTC)", "what", "details", box=None, pad_edge=False)
    for entry in _log(site, state).entries(last):
        details = ", ".join(f"{key} {_short(value)}" for key, value in entry.fields.items())
        table.add_row(str(entry.number), f"{entry.time:%Y-%m-%d %H:%M:%S}", entry.what, details)
    Console().print(table)


def _log(site: str, state: Path | None) -> AuditLog:
    folder = identity_folder(site, state)
    return AuditLog.of(folder.parent, SiteIdentity.load(folder))


def _anchor(file: Path) -> Anchor:
    try:
        return Anchor.model_validate_json(file.read_bytes())
    except (OSError, ValidationError) as error:
        raise OmniFedError(
            "OF833",
            "An anchor is the file RUN/audit/SITE.json of the coordinator.",
            seen=f"{file}: {type(error).__name__}",
            remedy="Ask the coordinator for the file of this site.",
        ) from None


def _short(value: object) -> str:
    text = str(value)
    return f"{text[:12]}.." if len(text) == 64 and "." not in text else text
