"""`omnifed-sim search`: either search alone, over phantom or real sites."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from omnifed_sim.options import names, settings, target

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="""Searches for students and for OmniKD's weights by brief trials at the sites.

**Examples**

`omnifed-sim search architecture --preset hospitals --device raspberry-pi-4=250 --out runs/arch`

`omnifed-sim search architecture --data DATA --sites isic,intraop --device measured=8 --budget 30m --out runs/arch`

`omnifed-sim search weights --preset hospitals --budget 12 --out runs/lambda`

`omnifed-sim search architecture --resume --budget 40 --out runs/arch` goes on after a crash, or with a larger budget
""",
)

Out = Annotated[Path, typer.Option(help="Run folder.")]
Config = Annotated[Path | None, typer.Option(help="TOML file with any of omnifed-sim's settings; options win.")]
Preset = Annotated[str, typer.Option(help="Phantom sites: modalities | hospitals.")]
Data = Annotated[str, typer.Option(help="Folder whose sub-folders are sites of real images.")]
Sites = Annotated[str, typer.Option(help="Names of the sites to take, comma-separated; all by default.")]
Split = Annotated[str, typer.Option(help="SITE:K cuts a site by patient into K hospitals.")]
ImageSize = Annotated[int, typer.Option(help="Side in pixels, a multiple of 32; 0 keeps each site's own.")]
Seed = Annotated[int, typer.Option(help="Everything derives from it.")]
Fraction = Annotated[float, typer.Option(help="Share of each site's training patients that a trial sees.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the search in --out; its budget may grow.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Delete the run in --out first.")]


@app.command("architecture")
def architecture(
    context: typer.Context,
    out: Out = Path("runs/search-architecture"),
    device: Annotated[
        list[str] | None,
        typer.Option(
            help="PROFILE=MS: a class of devices and what an image may take there (95th percentile); `omnifed devices "
            "list` names them, `measured` is this machine. PROFILE=VARIANT: as fast as compact, balanced or accurate. "
            "Repeat for several. [default: measured=balanced]",
            show_default=False,
        ),
    ] = None,
    student: Annotated[
        str, typer.Option(help="Whose options (stem_stride, fusion, ...) all networks share.")
    ] = "omnisegnet:compact,stem_stride=2",
    method: Annotated[str, typer.Option(help="surrogate | nsga2 | random.")] = "surrogate",
    budget: Annotated[str, typer.Option(help="Trials (24) or minutes (30m).")] = "24",
    steps: Annotated[int, typer.Option(help="Optimiser steps of a brief trial.")] = 20,
    rungs: Annotated[int, typer.Option(help="Fidelities; each trains longer than the one before.")] = 2,
    fraction: Fraction = 0.2,
    full: Annotated[int, typer.Option(help="Networks to train in full at the end, to correct brief trials.")] = 4,
    warm_start: Annotated[bool, typer.Option("--warm-start", help="Start trials from slices of one network.")] = False,
    preset: Preset = "hospitals",
    data: Data = "",
    sites: Sites = "",
    split: Split = "",
    image_size: ImageSize = 128,
    seed: Seed = 0,
    config: Config = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
) -> None:
    """Finds the most accurate student within each device's latency and memory.

    Example: `omnifed-sim search architecture --device raspberry-pi-4=250 --device jetson-nano=60 --budget 30m`
    """
    own = {"method": method, "budget": budget, "steps": steps, "rungs": rungs, "fraction": fraction, "full": full}
    own |= {"warm_start": warm_start, "seed": seed}
    shared = {"preset": preset, "data": data, "sites": sites, "split": split, "image_size": image_size, "seed": seed}
    own, shared = _given(context, own), _given(context, shared | {"student": student})
    if device:
        own["targets"] = [target(text) for text in device]
    _search("architecture", own, shared, config, out, resume=resume, overwrite=overwrite)


@app.command("weights")
def weights(
    context: typer.Context,
    out: Out = Path("runs/search-weights"),
    student: Annotated[
        str, typer.Option(help="FAMILY:PRESET or FAMILY:key=value,...; see `omnifed describe`.")
    ] = "omnisegnet:compact,stem_stride=2",
    teacher_steps: Annotated[int, typer.Option(help="Optimiser steps of each site's teacher.")] = 80,
    budget: Annotated[str, typer.Option(help="Trials at each site (12) or minutes (30m).")] = "12",
    steps: Annotated[int, typer.Option(help="Optimiser steps of a trial.")] = 40,
    fraction: Fraction = 0.2,
    gamma: Annotated[float, typer.Option(help="Dice that a second of training step is worth, in F(lambda).")] = 0.0,
    preset: Preset = "hospitals",
    data: Data = "",
    sites: Sites = "",
    split: Split = "",
    image_size: ImageSize = 128,
    seed: Seed = 0,
    config: Config = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
) -> None:
    """Finds OmniKD's weights lambda, for each site and for all.

    Example: `omnifed-sim search weights --preset hospitals --budget 12 --out runs/lambda`
    """
    own = {"budget": budget, "steps": steps, "fraction": fraction, "gamma": gamma, "seed": seed}
    shared = {"preset": preset, "data": data, "sites": sites, "split": split, "image_size": image_size, "seed": seed}
    shared |= {"student": student, "teacher_steps": teacher_steps}
    own, shared = _given(context, own), _given(context, shared)
    _search("weights", own, shared, config, out, resume=resume, overwrite=overwrite)


def _given(context: typer.Context, values: dict[str, Any]) -> dict[str, Any]:
    """The options that were given on the command line."""
    sources = {name: context.get_parameter_source(name) for name in values}
    return {name: values[name] for name, source in sources.items() if source is not None and source.name != "DEFAULT"}


def _search(
    name: str,
    own: dict[str, Any],
    shared: dict[str, Any],
    config: Path | None,
    out: Path,
    *,
    resume: bool,
    overwrite: bool,
) -> None:
    from omnifed.config import parse
    from omnifed_sim.config import SimConfig
    from omnifed_sim.run_folder import open_run

    if "sites" in shared:
        shared["sites"] = names(shared["sites"])
    if resume and not shared and config is None:
        stored = open_run(out, None, resume=True).model_dump(mode="json")
        wanted = parse(SimConfig, {**stored, name: {**stored[name], **own}}, "the options")
    else:
        base = {} if config else {"preset": "hospitals"}
        wanted = settings(config, {**base, "arms": (), "search": (name,), **shared, name: own})
    chosen = open_run(out, wanted, resume=resume, overwrite=overwrite)
    # What is refused above does not wait for torch, MONAI and Flower, which take seconds.
    from omnifed.reporting.search_console import search_tables
    from omnifed_sim.console import Screen
    from omnifed_sim.run import run

    screen, started = Screen(), time.perf_counter()
    with screen.live():
        report = run(chosen, out, screen)
    for shown in search_tables(out):
        screen.console.print(shown)
    screen.say(f"{(time.perf_counter() - started) / 60:.1f} min. Report: {report}")
