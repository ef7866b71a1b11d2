"""`omnifed bench`: what a model costs on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Table

from omnifed.cli.root import app
from omnifed.devices.measurement import ENGINES, MOST_VARIATION, Engine, Measurement

if TYPE_CHECKING:
    from omnifed.devices.machine import Machine


@app.command("bench")
def bench(
    models: Annotated[list[Path], typer.Argument(help="ONNX files.", metavar="MODEL.onnx...", show_default=False)],
    threads: Annotated[int, typer.Option(help="Threads of one inference.", min=1)] = 1,
    engine: Annotated[Engine, typer.Option(help="ONNX Runtime, or OpenVINO (an extra), on the CPU.")] = "ort",
    runs: Annotated[int, typer.Option(help="Fewest inferences measured, within 1 to 10 seconds.", min=5)] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measures the inference of models on this machine, one image at a time, each in a process of its own.

    Prints wall time (median and 95th percentile), CPU time of all threads, peak memory of the process, variation, and
    energy of the whole machine where it exposes a counter (RAPL or battery). A measurement that varies by more than
    10 % is repeated once; if it still does, the figures are shown and the exit code is 2: do not use them.

    Examples: `omnifed bench student.onnx`, `omnifed bench *.onnx --threads 2 --engine openvino --json`
    """
    from omnifed.devices.bench import unsteady
    from omnifed.devices.machine import describe_machine

    machine = describe_machine()
    measured: dict[Path, Measurement] = {}
    try:
        _measure(models, engine, threads, runs, measured)
    finally:  # an error of one model does not lose those before it
        if as_json:
            rows = [{"model": str(path), **row.model_dump()} for path, row in measured.items()]
            typer.echo(json.dumps({"machine": machine._asdict(), "measurements": rows}, indent=1))
        elif measured:
            _show(machine, measured)
    for row in measured.values():
        if row.variation > MOST_VARIATION:
            raise unsteady(row)


def _measure(models: list[Path], engine: Engine, threads: int, runs: int, into: dict[Path, Measurement]) -> None:
    from omnifed.devices.bench import bench

    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
        refresh_per_second=1,  # whatever runs beside a measurement is part of it
    ) as bar:
        task = bar.add_task("", total=len(models))
        for done, path in enumerate(models):
            bar.update(task, description=path.name, completed=done)
            into[path] = bench(
                path,
                engine=engine,
                threads=threads,
                runs=runs,
                accept_variation=True,
                progress=lambda share, done=done: bar.update(task, completed=done + share),  # type: ignore[misc]
            )


def _show(machine: Machine, measured: dict[Path, Measurement]) -> None:
    first = next(iter(measured.values()))
    out = Console(highlight=False, soft_wrap=True)
    out.print(f"{machine.text}; {ENGINES[first.engine]}, {first.threads} thread(s)", style="bold", markup=False)
    table = Table(box=None)
    table.add_column("model", overflow="fold")
    for name in ("p50 ms", "p95 ms", "CPU ms", "peak MiB", "variation", "energy mJ", "evidence"):
        table.add_column(name, justify="right", no_wrap=True)
    for path, row in measured.items():
        varies = row.variation > MOST_VARIATION
        table.add_row(
            escape(f"{path.name} ({row.size[0]} x {row.size[1]})"),
            f"{row.p50_ms:.2f}",
            f"{row.p95_ms:.2f}",
            f"{row.cpu_ms:.2f}",
            f"{row.peak_mib:.0f}",
            f"{row.variation:.1%}" + (" !" if varies else ""),
            "-" if row.energy_mj is None else f"{row.energy_mj:.1f}",
            row.evidence,
            style="red" if varies else None,
        )
    Console(highlight=False).print(table)
    if first.energy_mj is None:
        out.print("energy: not available, no counter (RAPL or a discharging battery) is readable here")
