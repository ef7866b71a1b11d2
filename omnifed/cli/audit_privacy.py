"""`omnifed audit-privacy`: can the student of a site tell who it was trained on?"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Table

from omnifed.cli.root import app
from omnifed.errors import OmniFedError

if TYPE_CHECKING:
    from omnifed.export.source import Source
    from omnifed.privacy.leak import Scores
    from omnifed.privacy.membership import Audit, SiteAudit

EXTRAS = ("torch", "monai", "safetensors")
PLOT = "privacy-audit.png"
MOST_REFERENCES = 3


@app.command("audit-privacy")
def audit_privacy(
    source: Annotated[
        Path,
        typer.Argument(
            help="State folder of omnifed-client, run folder of omnifed-sim, or a safetensors file.",
            metavar="SOURCE",
            show_default=False,
        ),
    ],
    data: Annotated[Path | None, typer.Option(help="Folder of the site; a run knows it.", show_default=False)] = None,
    arm: Annotated[str, typer.Option(help="Which arm; of a run, by default the exported one.")] = "",
    site: Annotated[str, typer.Option(help="Which site of a run; by default all.")] = "",
    student: Annotated[str, typer.Option(help="FAMILY:PRESET,... of a checkpoint.")] = "",
    reference: Annotated[
        list[Path] | None,
        typer.Option(
            help="Student of the same kind that never saw these patients, as a safetensors file; may be repeated.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder of the two files; by default SOURCE.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print privacy-audit.json.")] = False,
) -> None:
    """Attacks a trained student with the patients of its own site: are training patients told from others?

    Only the site can do this, and everything stays there. It writes privacy-audit.json, figures alone, and
    privacy-audit.png. In the run folder of a simulation each site is audited, calibrated by the students that other
    sites trained alone, where they have the same labels; `omnifed report RUN` then shows it.

    Examples: `omnifed audit-privacy state --data site --student omnisegnet:compact`,
    `omnifed audit-privacy runs/first --arm omnikd`
    """
    if missing := [name for name in EXTRAS if find_spec(name) is None]:
        raise OmniFedError(
            "OF890",
            "An audit needs the packages that train.",
            seen=f"not installed: {', '.join(missing)}",
            remedy="Install the extra: pip install 'omnifed[site]'.",
        )
    folder = output or (source.parent if source.is_file() else source)
    found = _audit(source, data, site, arm, student, reference or [])
    written, plot = _write(folder, found)
    if as_json:
        typer.echo(json.dumps(written.model_dump(mode="json"), indent=1))
    else:
        _show(written, folder, plot)


def _audit(
    path: Path, data: Path | None, site: str, arm: str, student: str, reference: list[Path]
) -> list[tuple[SiteAudit, Scores]]:
    from omnifed.export.source import find_source

    in_run = (path / "config.json").is_file() and (path / "sites").is_dir()
    arm = arm or (_exported(path) if in_run else "")
    names = _trained(path) if in_run and not site else [site]
    sources = {name: find_source(path, data=data, site=name, arm=arm, student=student) for name in names}
    from omnifed.privacy.leak import audit  # torch: a source that is none is named before it is loaded

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn())
    results = []
    with (
        Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar,
        tempfile.TemporaryDirectory() as spare,
    ):
        for one in sources.values():
            name = one.site.config.name
            row = bar.add_task(name)

            def told(done: int, total: int, row: Any = row) -> None:
                bar.update(row, completed=done, total=total)

            others = [_reference(one, file) for file in reference] or (_strangers(path, one) if in_run else [])
            kept = one.cache if one.cache and os.access(one.cache, os.W_OK) else Path(spare) / name
            results.append(audit(one, arm, kept, others, told))
    return results


def _exported(run: Path) -> str:
    """The arm whose students the run exported; empty if none was."""
    try:
        return str(json.loads((run / "costs.json").read_bytes()).get("exported_arm", ""))
    except (OSError, ValueError, AttributeError):
        return ""


def _trained(run: Path) -> list[str]:
    """Sites of a run that have trained; a held-out one has no student of its own."""
    folders = sorted(path for path in (run / "sites").iterdir() if any(path.glob("state/campaigns/*/arms/*")))
    return [folder.name for folder in folders] or [""]


def _reference(own: Source, file: Path) -> Source:
    from omnifed.export.source import weights_of

    return replace(own, state=weights_of(file))


def _strangers(run: Path, own: Source) -> list[Source]:
    """Students that other sites with the same labels trained alone: they never saw this site's patients."""
    from omnifed.export.source import find_source

    def alike(other: Source) -> bool:
        a, b = own.site.config, other.site.config
        same = (a.labels, a.modality, a.channels) == (b.labels, b.modality, b.channels)
        return same and a.name != b.name and own.student == other.student

    found = []
    for name in _trained(run):
        with contextlib.suppress(OmniFedError):  # a site without that arm, or whose images are gone, calibrates nothing
            found.append(find_source(run, site=name, arm="local"))
    return [other for other in found if alike(other)][:MOST_REFERENCES]


def _write(folder: Path, found: list[tuple[SiteAudit, Scores]]) -> tuple[Audit, str]:
    """The file as written, and the name of its picture or why there is none."""
    from omnifed.files import write_atomic, write_json
    from omnifed.privacy.membership import AUDIT_FILE, Audit, enough

    enough(tuple(audit for audit, _ in found))
    written = Audit(sites=tuple(audit for audit, _ in found))
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / AUDIT_FILE, written.model_dump(mode="json"), mode=0o600)
    try:
        from omnifed.privacy.leak_plot import leak_plot
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "matplotlib":
            raise
        (folder / PLOT).unlink(missing_ok=True)  # an older one would show other figures
        return written, "no plot: matplotlib is not installed (pip install matplotlib)"
    write_atomic(folder / PLOT, leak_plot(found), mode=0o600)
    return written, PLOT


def _show(written: Audit, folder: Path, plot: str) -> None:
    from omnifed.privacy.membership import AUDIT_FILE, MOST_FALSE

    out = Console(highlight=False, soft_wrap=True)
    table = Table(box=None)
    for name in ("site", "attack"):
        table.add_column(name, no_wrap=True)
    for name in ("AUC, 95 %", f"found at {MOST_FALSE:.0%}", "patients"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("reading", no_wrap=True)
    for site in written.sites:
        for attack in site.attacks:
            found = f"{attack.auc:.2f} [{attack.low:.2f}, {attack.high:.2f}]"
            counts = f"{site.members} / {site.others}"
            table.add_row(site.site, attack.name, found, f"{attack.tpr:.0%}", counts, attack.verdict)
    out.print(table)
    for site in written.sites:
        out.print(f"{site.site}: {site.verdict}", markup=False)
    out.print(f"{folder / AUDIT_FILE}, {plot}: about patients, for this site's eyes", markup=False)
