"""`omnifed export`: a trained student as the file that a site uses, in the precision that is fastest there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from omnifed.cli.root import app
from omnifed.errors import OmniFedError

if TYPE_CHECKING:
    from omnifed.export.publish import ExportSettings, Published
    from omnifed.export.source import Source

EXTRAS = {"torch", "onnx", "onnxscript", "monai", "safetensors"}


@app.command("export")
def export(
    source: Annotated[
        Path,
        typer.Argument(
            help="Run folder of omnifed-sim, state folder of omnifed-client, or a safetensors file.",
            metavar="SOURCE",
            show_default=False,
        ),
    ],
    output: Annotated[Path, typer.Option(help="Folder of model.onnx, model.json and export.svg.", show_default=False)],
    data: Annotated[Path | None, typer.Option(help="Folder of the site; a run knows it.", show_default=False)] = None,
    precision: Annotated[
        Literal["fp32", "bf16", "int8", "auto"], typer.Option(help="auto: the fastest within --max-loss.")
    ] = "fp32",
    engine: Annotated[
        Literal["auto", "ort", "openvino"], typer.Option(help="ONNX Runtime, OpenVINO, or what is faster here.")
    ] = "auto",
    batch: Annotated[Literal["dynamic", "static"], typer.Option(help="static: one image at a time.")] = "dynamic",
    arm: Annotated[str, typer.Option(help="Which arm of a run or a campaign.")] = "",
    site: Annotated[str, typer.Option(help="Which site of a run.")] = "",
    student: Annotated[str, typer.Option(help="FAMILY:PRESET,... of a checkpoint.")] = "",
    image_size: Annotated[
        int,
        typer.Option(
            help="Side that the student was trained at; by default the run's or an earlier export's, else the site's.",
            min=0,
            show_default=False,
        ),
    ] = 0,
    max_loss: Annotated[
        float, typer.Option(help="Dice points (0..100) that may be lost to fp32.", min=0, max=100)
    ] = 0.5,
    threads: Annotated[int, typer.Option(help="Threads of one inference while measuring.", min=1)] = 1,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the model in the folder.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print model.json.")] = False,
) -> None:
    """Exports the student that a site would deploy to ONNX, measured on this device and on the site's own cases.

    The float32 file must compute what the student computes (logits to 1e-4). int8 is calibrated on training images of
    the site; bf16 and int8 are compared with float32 on test or validation cases. What loses more than is allowed is
    refused, and nothing is written.

    Examples: `omnifed export runs/six --site ct --arm omnikd --output models/ct --precision auto`,
    `omnifed export student.safetensors --student omnisegnet:compact --data sites/ct --output models/ct`
    """
    try:
        from omnifed.export.publish import ExportSettings
        from omnifed.export.source import find_source
    except ModuleNotFoundError as error:
        if error.name not in EXTRAS:
            raise
        raise OmniFedError(
            "OF615",
            "An export needs the packages that train.",
            seen=f"{error.name} is not installed",
            remedy="Install the extra: pip install 'omnifed[site]'. Prediction does not need it.",
        ) from None
    settings = ExportSettings(
        precision=precision, engine=engine, batch=batch, max_loss=max_loss, threads=threads, overwrite=overwrite
    )
    found = find_source(source, data=data, site=site, arm=arm, student=student)
    if image_size:
        found = replace(found, image_size=(image_size, image_size))
    published, plot = _publish(found, output, settings)
    if as_json:
        typer.echo(published.model_dump_json(indent=1))
    else:
        _show(published, output, plot)


def _publish(source: Source, output: Path, settings: ExportSettings) -> tuple[Published, str]:
    """What was published, and the name of its picture or why there is none."""
    from omnifed.export.publish import PLOT, publish
    from omnifed.files import write_atomic

    console = Console(stderr=True)
    with console.status("export") as status:
        published = publish(source, output, settings, progress=lambda text: status.update(f"export: {text}"))
    try:
        from omnifed.export.plot import export_plot
    except ModuleNotFoundError:
        (output / PLOT).unlink(missing_ok=True)  # an older one would show other figures
        return published, "no plot: matplotlib is not installed (pip install matplotlib)"
    write_atomic(output / PLOT, export_plot(published))
    return published, PLOT


def _show(published: Published, output: Path, plot: str) -> None:
    from omnifed.devices.measurement import ENGINES, MOST_VARIATION
    from omnifed.export.publish import FIGURES, MODEL
    from omnifed.trust.manifest import manifest_path

    out = Console(highlight=False, soft_wrap=True)
    out.print(f"{published.machine}; {published.threads} thread(s)", style="bold", markup=False)
    table = Table(box=None)
    table.add_column("precision, engine", no_wrap=True)
    for name in ("p50 ms", "peak MiB", "MB", "max |delta|", "vs fp32", "Dice", "loss, points"):
        table.add_column(name, justify="right")
    for row in published.rows:
        varies = " !" if row.variation > MOST_VARIATION else ""
        interval = "" if row.loss_low is None else f" [{row.loss_low:.2f}, {row.loss_high:.2f}]"
        table.add_row(
            f"{row.precision}, {ENGINES[row.engine]}",
            f"{row.p50_ms:.2f}{varies}",
            f"{row.peak_mib:.0f}",
            f"{row.bytes / 1e6:.2f}",
            f"{row.max_delta:.2g}",
            f"{row.agreement:.4f}",
            "-" if row.dice is None else f"{row.dice:.4f}",
            "-" if row.precision == "fp32" else f"{row.loss:.2f}{interval}",
            style="bold" if row.variant == published.chosen else None,
        )
    out.print(table)
    out.print(f"{published.cases} {published.split} cases, {published.with_mask} with a mask", markup=False)
    if any(row.variation > MOST_VARIATION for row in published.rows):
        out.print(f"! varied by more than {MOST_VARIATION:.0%}: export again on an idle machine", style="yellow")
    precision, engine = published.chosen
    out.print(
        f"{output / MODEL}: {precision} for {ENGINES[engine]}, {published.bytes / 1e6:.2f} MB, max |delta logit| of "
        f"fp32 {published.max_delta:.2g}, sha256 {published.sha256}",
        markup=False,
    )
    signed = manifest_path(output / MODEL)
    if signed.exists():
        out.print(f"signed: {signed.name}; whoever gets the model checks it with omnifed verify", markup=False)
    out.print(f"figures: {FIGURES}, {plot}; {published.card.notice}", markup=False)
