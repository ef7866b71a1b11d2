"""`omnifed describe`: what a student costs, without building it (and without torch)."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from omnifed.cli.root import app
from omnifed.errors import OmniFedError
from omnifed.models import scaling
from omnifed.models.base import SiteSpec
from omnifed.models.spec import StudentSpec


@app.command()
def describe(
    student: Annotated[str, typer.Argument(help="A preset, omnisegnet:compact, or omnisegnet:key=value,...")],
    size: Annotated[int, typer.Option(help="Side of the square input in pixels.", min=16)] = 256,
    channels: Annotated[int, typer.Option(help="Input channels.", min=1)] = 3,
    classes: Annotated[
        int,
        typer.Option(help="Logits a pixel: the site's labels, background included; the paper's table has 1.", min=1),
    ] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Prints a student's parameters, multiply-accumulates, channels and blocks.

    STUDENT is a preset (omnisegnet:compact, balanced or accurate), or
    omnisegnet:key=value,... with alpha, beta and options.

    Example: `omnifed describe omnisegnet:compact,stem_stride=2 --size 128 --classes 3`
    """
    facts = describe_student(StudentSpec.parse(student), SiteSpec(channels, classes), size)
    if as_json:
        typer.echo(json.dumps(facts, indent=1))
    else:
        Console().print(_table(student, facts))


def describe_student(spec: StudentSpec, site: SiteSpec, size: int) -> dict[str, Any]:
    """Facts about a student, ready for JSON.

    Args:
        spec: the student.
        site: its channels and classes.
        size: side of the square input in pixels.

    Raises:
        OmniFedError: OF303 if ``size`` is no multiple of what the student halves.
    """
    step = scaling.divisor(spec)
    if size % step:
        raise OmniFedError(
            "OF303",
            "A student takes images whose sides are multiples of 16 (of 32 with stem_stride=2).",
            seen=f"--size {size}, multiples of {step}",
            remedy=f"Use for example --size {-(-size // step) * step}.",
        )
    costs, blocks = scaling.costs(spec, site, size), scaling.blocks(spec)
    return {
        "student": spec.model_dump(),
        "architecture_key": scaling.architecture_key(spec),
        "input": [site.channels, size, size],
        "classes": site.classes,
        "params": costs.params,
        "macs": costs.macs,
        "flops": 2 * costs.macs,
        "channels": list(scaling.channels(spec)),
        "blocks": {part: list(counts) for part, counts in asdict(blocks).items()},
    }


def _table(name: str, facts: dict[str, Any]) -> Table:
    def numbers(values: list[int]) -> str:
        return ", ".join(map(str, values))

    channels, side, _ = facts["input"]
    encoder, decoder = facts["blocks"]["encoder"], facts["blocks"]["decoder"]
    table = Table(title=name, show_header=False, title_justify="left")
    table.add_column()
    table.add_column(overflow="fold")
    table.add_row("input", f"{side} x {side} x {channels}")
    table.add_row("classes", str(facts["classes"]))
    table.add_row("parameters", f"{facts['params']:,} ({facts['params'] / 1e6:.3f} M)")
    table.add_row("MACs", f"{facts['macs']:,} ({facts['macs'] / 1e9:.2f} G)")
    table.add_row("FLOPs (2 x MACs)", f"{facts['flops'] / 1e9:.2f} G")
    table.add_row("channels by stage", numbers(facts["channels"]))
    table.add_row("encoder blocks", f"{sum(encoder)}: {numbers(encoder)} (full resolution first)")
    table.add_row("decoder blocks", f"{sum(decoder)}: {numbers(decoder)} (full resolution first)")
    table.add_row("architecture key", facts["architecture_key"])
    return table
