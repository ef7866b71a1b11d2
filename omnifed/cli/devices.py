"""`omnifed devices`: profiles of edge devices, and measuring this one."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn
from rich.progress import Progress as Bar
from rich.table import Table

from omnifed.cli.root import app
from omnifed.devices.measurement import Engine
from omnifed.models.base import SiteSpec
from omnifed.models.spec import PRESETS, StudentSpec

if TYPE_CHECKING:
    from omnifed.devices.latency import LatencyModel
    from omnifed.devices.profile import DeviceProfile

GOAL = 0.10
"""Error above which a fitted model is not good enough to choose students by."""

devices = typer.Typer(
    no_args_is_help=True, rich_markup_mode="markdown", help="Profiles of edge devices; measure this machine."
)
app.add_typer(devices, name="devices")

Student = Annotated[str, typer.Option(help="Whose options (stem_stride, fusion, ...) the probes have.")]
Size = Annotated[int, typer.Option(help="Side of the square image in pixels.", min=32)]
Channels = Annotated[int, typer.Option(help="Input channels.", min=1, max=3)]
Classes = Annotated[int, typer.Option(help="Labels, background included.", min=2)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@devices.command("list")
def list_devices(as_json: Json = False) -> None:
    """Lists the devices that have a profile: those shipped and those measured by you."""
    from omnifed.devices.profile import known_profiles

    profiles = known_profiles()
    if as_json:
        fields = {"name", "title", "kind", "processor", "cores", "threads", "engine", "note"}
        rows = [p.model_dump(include=fields) | {"memory_mib": p.memory_mib, "evidence": p.evidence} for p in profiles]
        typer.echo(json.dumps(rows, indent=1))
        return
    table = Table()
    table.add_column("name", no_wrap=True)
    for name in ("processor", "engine"):
        table.add_column(name, overflow="fold")
    table.add_column("memory MiB", justify="right")
    table.add_column("estimates")
    for p in profiles:
        table.add_row(p.name, p.processor, p.engine, f"{p.memory_mib:.0f}", p.evidence)
    Console(highlight=False).print(table)


@devices.command()
def show(
    name: Annotated[str, typer.Argument(help="A profile's name or TOML file.")],
    student: Annotated[list[str] | None, typer.Option(help="What to estimate; the three presets if not given.")] = None,
    size: Size = 256,
    channels: Channels = 1,
    classes: Classes = 2,
    as_json: Json = False,
) -> None:
    """Shows a device's figures with their sources, and what students are expected to cost there.

    Example: `omnifed devices show raspberry-pi-4 --student omnisegnet:compact,stem_stride=2 --size 128`
    """
    from omnifed.devices.profile import load_profile

    profile = load_profile(name)
    names = student or [f"omnisegnet:{preset}" for preset in PRESETS]
    site = SiteSpec(channels, classes)
    estimates = {text: profile.estimate(StudentSpec.parse(text), site, (size, size)) for text in names}
    if as_json:
        values = {text: estimate.model_dump() for text, estimate in estimates.items()}
        typer.echo(json.dumps({"profile": profile.model_dump(mode="json"), "estimates": values}, indent=1))
        return
    console = Console(highlight=False)
    console.print(f"{profile.title}\n{profile.processor}; {profile.engine}, {profile.threads} thread(s)", markup=False)
    if profile.note:
        console.print(profile.note, markup=False)
    console.print(_figures(profile))
    if profile.published:
        console.print(_published(profile), markup=False)
    table = Table(title=f"Estimates, {size} x {size} x {channels}, {classes} classes", title_justify="left")
    table.add_column("student", overflow="fold")
    for column in ("p50 ms", "p95 ms", "peak MiB", "evidence"):
        table.add_column(column, justify="right")
    for text, e in estimates.items():
        table.add_row(text, f"{e.p50_ms:.1f}", f"{e.p95_ms:.1f}", f"{e.peak_mib:.0f}", e.evidence)
    console.print(table)
    if profile.latency:
        _print_errors(console, profile.latency)


@devices.command("probes")
def make_probes(
    folder: Annotated[Path, typer.Argument(help="Where the ONNX files go.", metavar="DIR")],
    student: Student = "omnisegnet:balanced",
    size: Size = 256,
    channels: Channels = 1,
    classes: Classes = 2,
) -> None:
    """Makes the networks that `omnifed devices measure --models DIR` measures on a device without torch.

    Example: `omnifed devices probes probes --student omnisegnet:balanced,stem_stride=2 --size 128`
    """
    from omnifed.devices.latency import probes
    from omnifed.devices.measuring import write_probes

    students = probes(StudentSpec.parse(student))
    with _progress("export", len(students)) as progress:
        paths = write_probes(folder, students, SiteSpec(channels, classes), size, progress)
    typer.echo(f"{len(paths)} networks in {folder}")


@devices.command()
def measure(
    name: Annotated[str, typer.Option(help="Name of the profile.")] = "this-machine",
    out: Annotated[Path | None, typer.Option(help="TOML file; your folder of profiles if not given.")] = None,
    student: Student = "omnisegnet:balanced",
    size: Size = 256,
    channels: Channels = 1,
    classes: Classes = 2,
    engine: Annotated[Engine, typer.Option(help="ONNX Runtime, or OpenVINO (an extra), on the CPU.")] = "ort",
    threads: Annotated[int, typer.Option(help="Threads of one inference.", min=1)] = 1,
    models: Annotated[Path | None, typer.Option(help="Folder that `omnifed devices probes` made.")] = None,
) -> None:
    """Measures this machine with at most ten networks and writes its profile.

    Close other programs first. Finished measurements are kept: after Ctrl-C the same command goes on. With --models DIR
    the networks' options, size, channels and classes are those of the files, and no torch is needed.

    Example: `omnifed devices measure --student omnisegnet:balanced,stem_stride=2 --size 128`
    """
    from omnifed.devices.latency import probes
    from omnifed.devices.machine import describe_machine
    from omnifed.devices.measuring import measure_probes, measured_profile, write_probes
    from omnifed.devices.profile import measured_folder, to_toml
    from omnifed.files import write_atomic

    target = out or measured_folder() / f"{name}.toml"
    kept = target.with_name(f"{target.stem}.measured.json")
    if models:
        paths = tuple(sorted(models.glob("*.onnx")))
    else:
        students = probes(StudentSpec.parse(student))
        with _progress("export", len(students)) as progress:
            paths = write_probes(_cache(), students, SiteSpec(channels, classes), size, progress)
    with _progress("measure", len(paths)) as progress:
        model = measure_probes(paths, engine=engine, threads=threads, kept=kept, progress=progress)
    write_atomic(target, to_toml(measured_profile(name, describe_machine(), model)).encode())
    kept.unlink(missing_ok=True)
    console = Console(highlight=False)
    console.print(_fitted(model))
    _print_errors(console, model)
    console.print(f"Written to {target}", markup=False, soft_wrap=True)


def _cache() -> Path:
    """Exported probes are the same each time: they are kept where caches belong."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "omnifed" / "probes"


@contextmanager
def _progress(what: str, total: int) -> Iterator[Callable[[int, str, float], None]]:
    console = Console(stderr=True)
    columns = TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn()
    # One look a second: whatever runs beside a measurement is part of it.
    with Bar(*columns, console=console, disable=not console.is_terminal, transient=True, refresh_per_second=1) as bar:
        task = bar.add_task(what, total=total)
        yield lambda number, name, share: bar.update(
            task, description=f"{what} {number + 1}/{total} {name}", completed=number + share
        )


def _figures(profile: DeviceProfile) -> Table:
    table = Table(title="Figures", title_justify="left")
    for column in ("figure", "value", "evidence"):
        table.add_column(column)
    table.add_column("source", overflow="fold")
    for key in type(profile.figures).model_fields:
        figure = getattr(profile.figures, key)
        if figure:
            table.add_row(key, f"{figure.value:g}", figure.evidence, figure.source)
    return table


def _published(profile: DeviceProfile) -> str:
    lines = ["Published by others, other networks"]
    for p in profile.published:
        figure = f"{p.ms:g} ms" if p.ms else f"{p.fps:g} frames/s"
        macs = f", {p.gmac:g} GMAC" if p.gmac else ""
        lines.append(f"- {p.network}, {p.size[0]} x {p.size[1]}, {p.engine}: {figure}{macs}")
        lines += [f"  {text}" for text in (p.source, p.note) if text]
    return "\n".join(lines)


def _fitted(model: LatencyModel) -> Table:
    table = Table(title="p50, ms", title_justify="left")
    table.add_column("network", overflow="fold")
    for column in ("measured", "fitted", "left out", "error"):
        table.add_column(column, justify="right")
    for row in model.networks:
        error = row.left_out_ms / row.p50_ms - 1
        table.add_row(
            row.key, f"{row.p50_ms:.2f}", f"{row.predicted_ms:.2f}", f"{row.left_out_ms:.2f}", f"{error:+.1%}"
        )
    return table


def _print_errors(console: Console, model: LatencyModel) -> None:
    console.print(
        f"Latency model of {len(model.networks)} networks, {model.size[0]} x {model.size[1]}: mean error "
        f"{model.error:.1%}, each left out {model.left_out_error:.1%}; memory {model.memory_error:.1%}."
    )
    if model.left_out_error > GOAL:
        console.print(
            f"Above {GOAL:.0%}: measure again with other programs closed and a fixed clock.", style="red", markup=False
        )
