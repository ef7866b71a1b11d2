"""`omnifed predict`: an exported model on hospital files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from omnifed.cli.root import app
from omnifed.cli.shared import EXIT_ERROR

if TYPE_CHECKING:
    from omnifed.predict.result import Prediction, Report


@app.command("predict")
def predict(
    model: Annotated[Path, typer.Argument(help="An exported model.", metavar="MODEL.onnx", show_default=False)],
    source: Annotated[Path, typer.Option("--input", help="An image, a volume, a DICOM series, or a folder of these.")],
    target: Annotated[
        Path, typer.Option("--output", help="A folder; or a file (.png, .nii.gz, .dcm) where the input is one thing.")
    ],
    overlay: Annotated[
        Literal["none", "sheet", "slices"],
        typer.Option(help="Pictures: none, of a volume a contact sheet, or every slice in a folder."),
    ] = "sheet",
    threads: Annotated[int, typer.Option(help="Threads of the network; 0 leaves it to the engine.", min=0)] = 0,
    engine: Annotated[
        Literal["auto", "ort", "openvino"], typer.Option(help="What runs the network; auto: as the model says.")
    ] = "auto",
    view: Annotated[
        Literal["auto", "resize", "window"],
        typer.Option(help="Resize the image to the network's size, or slide a window over it; auto: as trained."),
    ] = "auto",
    require_signed: Annotated[
        Path | None,
        typer.Option(
            help="Refuse a model that no member of this federation has signed: a kit, or a site's identity folder.",
            metavar="KIT",
            show_default=False,
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace predictions that exist.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Segment images, volumes and DICOM series with an exported model.

    PNG, JPEG, TIFF and BMP become an index PNG, NIfTI a label map on the same voxels, a DICOM series a DICOM SEG in the
    same study and frame of reference. A folder is searched with its sub-folders; the DICOM files of one folder are one
    series; tables and texts are passed over. Exit code 2: an input was not segmented; the others are written.
    Research use only, not a medical device.

    Examples: `omnifed predict model.onnx --input series/ --output out/`,
    `omnifed predict model.onnx --input ct.nii.gz --output liver.nii.gz --overlay none`
    """
    from omnifed.export.session import Session, read_model
    from omnifed.predict.run import predict_all

    content = _read_signed(model, require_signed) if require_signed else read_model(model)
    session = Session(content, threads=threads, engine=engine)
    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    ) as bar:
        task = bar.add_task("")
        report = predict_all(
            session,
            source,
            target,
            overlay=overlay,
            view=view,
            overwrite=overwrite,
            progress=lambda done, total, name: bar.update(task, completed=done, total=total, description=name),
        )
    if as_json:
        typer.echo(json.dumps(report.as_json(), indent=1, allow_nan=False))
    _tell(report, session.warnings, quiet=as_json)
    raise typer.Exit(EXIT_ERROR if report.failed else 0)


def _read_signed(model: Path, kit: Path) -> bytes:
    """The model's bytes, once a signature vouches for them: nothing of an unsigned file is parsed."""
    from omnifed.export.verification import read_verified
    from omnifed.trust.anchor import find_anchor

    anchor = find_anchor(kit=kit)
    assert anchor is not None
    return read_verified(model, anchor)


def _tell(report: Report, warnings: tuple[str, ...], *, quiet: bool) -> None:
    """What was written on stdout (unless JSON says it), what went wrong on stderr."""
    from omnifed.export.card import NOTICE

    out = Console(highlight=False, soft_wrap=True)
    err = Console(stderr=True, highlight=False, soft_wrap=True)
    for text in warnings:
        err.print(f"warning: {text}", style="yellow", markup=False)
    for done in report.predictions:
        if not quiet:
            out.print(_line(done), markup=False)
        for text in done.warnings:
            err.print(f"warning: {done.source}: {text}", style="yellow", markup=False)
    for failed in report.failed:
        err.print(f"{failed.source}: {failed.reason}", style="red", markup=False)
    if not quiet:
        out.print(f"{len(report.predictions)} predicted, {len(report.failed)} failed; {NOTICE}", markup=False)


def _line(done: Prediction) -> str:
    sizes = ", ".join(
        f"{name} {size.pixels} pixels" if size.ml is None else f"{name} {size.ml:.2f} ml"
        for name, size in done.labels.items()
    )
    slices = f"{done.slices} slices, " if done.slices > 1 else ""
    return f"{done.source} -> {', '.join((*done.outputs, *done.overlays))} ({slices}{sizes}; {done.seconds:.2f} s)"
