"""`omnifed verify`: is a model whole, and who made it?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from omnifed.cli.root import app
from omnifed.cli.shared import EXIT_ERROR

if TYPE_CHECKING:
    from omnifed.export.verification import Verdict

EXIT_INTACT = 3
"""Exit code of a whole model of which nobody vouches for who made it."""
SIGNS = {"ok": "[green]ok[/]", "open": "[yellow]not checked[/]", "failed": "[bold red]failed[/]"}
WORDS = {
    "verified": "verified: whole, and signed by a member of the federation",
    "intact": "intact, NOT verified: the file is whole, but nobody vouches for who made it",
    "refused": "refused: do not use this file",
}


@app.command("verify")
def verify(
    model: Annotated[Path, typer.Argument(help="An exported model.", metavar="MODEL.onnx", show_default=False)],
    manifest: Annotated[
        Path | None, typer.Option(help="By default MODEL.onnx.manifest.json.", show_default=False)
    ] = None,
    kit: Annotated[
        Path | None,
        typer.Option(help="Whose members are trusted: a kit, or the identity folder of a site.", show_default=False),
    ] = None,
    roster: Annotated[Path | None, typer.Option(help="Or the federation's roster,", show_default=False)] = None,
    root: Annotated[str, typer.Option(help="and the key or fingerprint of its root.", show_default=False)] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check an exported model: its bytes against its signed manifest, who signed it, and what is inside.

    Whose signature counts is for you to say: name your kit, or a roster and the fingerprint of the root that the
    coordinator told you. Without that nothing says who made the model.

    Exit code 0: verified. 3: whole, but who made it was not checked, or the signer was revoked since. 2: refused.

    Examples: `omnifed verify model.onnx --kit state/identity`,
    `omnifed verify model.onnx --roster roster.json --root "3f1c 09ab ..."`
    """
    from omnifed.export.verification import verify_model
    from omnifed.trust.anchor import find_anchor

    verdict = verify_model(model, manifest=manifest, anchor=find_anchor(kit=kit, roster=roster, root=root))
    if as_json:
        typer.echo(verdict.model_dump_json(indent=1))
    else:
        _show(verdict, model)
    raise typer.Exit({"verified": 0, "intact": EXIT_INTACT, "refused": EXIT_ERROR}[verdict.result])


def _show(verdict: Verdict, model: Path) -> None:
    from rich.text import Text

    from omnifed.export.verification import STEPS

    out = Console(highlight=False, soft_wrap=True)
    table = Table(box=None, title_justify="left")
    for name in ("check", "result", "what was seen"):
        table.add_column(name)
    for check in verdict.checks:
        seen = f"{check.code}: {check.detail}" if check.code else check.detail
        table.add_row(check.name, SIGNS[check.state], Text(seen))
    for name in list(STEPS)[len(verdict.checks) :]:
        table.add_row(name, SIGNS["open"], "the file was refused before")
    out.print(table)
    said = verdict.manifest
    if said is not None:
        origin = said.origin
        promised = "" if origin.epsilon is None else f", differential privacy epsilon {origin.epsilon:g}"
        out.print(
            f"the manifest says: {said.file}, {said.site} of {said.federation}, campaign {origin.campaign or '-'}, "
            f"arm {origin.arm or '-'}, {said.created:%Y-%m-%d %H:%M}, aggregation {origin.mode or 'unknown'}{promised}",
            markup=False,
        )
    style = {"verified": "green", "intact": "yellow", "refused": "bold red"}[verdict.result]
    out.print(f"{model}: {WORDS[verdict.result]}", style=style, markup=False)
    if verdict.result == "refused":
        out.print(f"More: docs/errors/{verdict.checks[-1].code}.md", markup=False)
