"""`omnifed init-site` and `omnifed check`: what a hospital runs first."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from omnifed.cli.root import app

if TYPE_CHECKING:
    from omnifed.data.check import CheckReport

Folder = Annotated[Path, typer.Argument(help="The site folder: index.csv and the images it names.", metavar="DIR")]


@app.command("init-site")
def init_site(folder: Folder) -> None:
    """Propose a site.toml from the images and masks that index.csv names.

    The index has the columns image, mask and patient (mask may be empty; a column split is optional).
    Images: PNG, JPEG, TIFF, DICOM files or folders, NIfTI. Masks: PNG, NIfTI, DICOM SEG.

    Example: `omnifed init-site /data/liver-ct`
    """
    from omnifed.data.propose import propose_site, write_site_toml
    from omnifed.data.site import SITE_TOML

    config = propose_site(folder)
    write_site_toml(config, folder / SITE_TOML)
    out = Console(highlight=False, soft_wrap=True)
    out.print(
        f"Wrote {folder / SITE_TOML}: {config.modality}, {config.channels} channel(s), "
        f"{config.image_size[0]} x {config.image_size[1]}, labels {', '.join(config.labels.values())}.\n"
        "Review it, then run: omnifed check " + str(folder),
        markup=False,
    )


@app.command("check")
def check(
    folder: Folder,
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON, nothing else.")] = False,
    sheet: Annotated[Path | None, typer.Option(help="Where to write the contact sheet (PNG).")] = None,
) -> None:
    """Read a whole site once: counts, sizes, label support, splits, what is unreadable and why, a contact sheet.

    Exit code 0: usable. 1: more rows are unreadable than site.toml's unreadable_limit allows. 2: an error in site.toml
    or the index. The report and the sheet show file names and patients' images: they stay at the site.

    Examples: `omnifed check /data/liver-ct`, `omnifed check /data/liver-ct --json > report.json`
    """
    from omnifed.data.check import check_site
    from omnifed.data.site_folder import load_site

    site = load_site(folder)
    path = sheet or Path(f"contact-sheet-{site.config.name}.png")
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not Console(stderr=True).is_terminal,
        transient=True,
    ) as bar:
        task = bar.add_task("check", total=len(site.rows))
        report = check_site(site, lambda done, total, text: bar.update(task, completed=done), sheet=path)
    if json:
        typer.echo(report.model_dump_json(indent=1))
    else:
        _show(report, path)
    raise typer.Exit(0 if report.ok else 1)


def _show(report: CheckReport, sheet: Path) -> None:
    out = Console(highlight=False, soft_wrap=True)
    out.print(f"Site {report.site} ({report.modality})", style="bold", markup=False)
    out.print(
        f"{report.rows} rows, {report.slices} slices of {report.patients} patients: {report.labelled} with a mask, "
        f"{report.slices - report.labelled} without; pixel spacing known for {report.spacing_known}"
    )
    out.print("sizes: " + (", ".join(f"{size} ({n})" for size, n in list(report.sizes.items())[:8]) or "none"))
    out.print("splits: " + ", ".join(f"{name} {n}" for name, n in report.splits.items()))
    table = Table("label", "name", "slices", "share of pixels", box=None)
    for entry in report.labels:
        table.add_row(str(entry.label), entry.name, str(entry.slices), f"{100 * entry.share:.2f} %")
    out.print(table)
    for skipped in report.skipped:
        out.print(f"skipped {skipped.name}: {skipped.reason}", style="yellow", markup=False)
    for warning in report.warnings:
        out.print(f"warning: {warning}", style="yellow", markup=False)
    verdict = "usable" if report.ok else "NOT usable"
    out.print(
        f"{verdict}: {report.skipped_rows} of {report.rows} rows with something unreadable "
        f"({100 * report.share:.1f} %, limit {100 * report.limit:.1f} %)",
        style="green" if report.ok else "red",
    )
    if sheet.is_file():
        out.print(f"contact sheet: {sheet}", markup=False)
