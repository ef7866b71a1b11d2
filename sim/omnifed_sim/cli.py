"""`omnifed-sim`: a federation on one machine."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from omnifed.cli.shared import App
from omnifed_sim.options import names, settings, target
from omnifed_sim.search_cli import app as search_app

app = App(
    name="omnifed-sim",
    no_args_is_help=False,
    help="""Simulates a federation on one machine: teachers, distilled students, rounds, scores, models and a report.

**Examples**

`omnifed-sim --out runs/six` six phantom sites of six modalities, four arms

`omnifed-sim --preset hospitals --arms local,fedbn,omnikd,central --out runs/hospitals`

`omnifed-sim --data DATA --sites isic,intraop --rounds 10 --out runs/two` real images

`omnifed-sim --data DATA --split isic:4 --hold-out isic-4 --out runs/four` one site cut into four hospitals

`omnifed-sim --out runs/six --resume` goes on after a crash
""",
)


app.add_typer(search_app, name="search")


@app.callback(invoke_without_command=True)
def main(
    context: typer.Context,
    out: Annotated[Path, typer.Option(help="Run folder.")] = Path("runs/sim"),
    config: Annotated[Path | None, typer.Option(help="TOML file with any of the settings; options win.")] = None,
    preset: Annotated[str, typer.Option(help="Phantom sites: modalities | hospitals.")] = "modalities",
    data: Annotated[str, typer.Option(help="Folder whose sub-folders are sites of real images.")] = "",
    sites: Annotated[str, typer.Option(help="Names of the sites to take, comma-separated; all by default.")] = "",
    split: Annotated[str, typer.Option(help="SITE:K cuts a site by patient into K hospitals.")] = "",
    skew: Annotated[str, typer.Option(help="How these differ: none | quantity | label | scanner.")] = "none",
    hold_out: Annotated[str, typer.Option(help="Sites that never train; the shared model is tested there.")] = "",
    arms: Annotated[
        str, typer.Option(help="Methods to compare: local, fedavg, fedprox, fedbn, omnikd, central.")
    ] = "local,fedavg,fedbn,omnikd",
    search: Annotated[
        str, typer.Option(help="Searches before the arms: architecture, weights; see `omnifed-sim search`.")
    ] = "",
    device: Annotated[
        list[str] | None, typer.Option(help="PROFILE=MS of the architecture search; repeat for several.")
    ] = None,
    rounds: Annotated[int, typer.Option(help="Rounds of the federation.")] = 5,
    steps: Annotated[int, typer.Option(help="Optimiser steps a site and round.")] = 40,
    student: Annotated[
        str, typer.Option(help="FAMILY:PRESET or FAMILY:key=value,...; see `omnifed describe`.")
    ] = "omnisegnet:compact,stem_stride=2",
    teacher: Annotated[str, typer.Option(help="sam-tiny | sam | cnn | onnx.")] = "sam-tiny",
    teacher_steps: Annotated[int, typer.Option(help="Optimiser steps of each teacher.")] = 80,
    checkpoint: Annotated[str, typer.Option(help="Checkpoint file of the teacher (sam, onnx).")] = "",
    image_size: Annotated[int, typer.Option(help="Side in pixels, a multiple of 32; 0 keeps each site's own.")] = 128,
    lr: Annotated[float, typer.Option(help="Learning rate of the students (AdamW, cosine).")] = 2e-3,
    emulate: Annotated[str, typer.Option(help="TOML file of site speeds, bandwidths and drop-outs.")] = "",
    deadline: Annotated[float, typer.Option(help="Seconds a site may take for a task; 0 waits.")] = 0.0,
    wire: Annotated[str, typer.Option(help="How weights travel: fp32 | bf16 | int8-delta.")] = "fp32",
    aggregation: Annotated[str, typer.Option(help="How updates are combined: mean | private | robust.")] = "mean",
    epsilon: Annotated[float | None, typer.Option(help="Differential privacy of each patient, at most 8.")] = None,
    backend: Annotated[str, typer.Option(help="inprocess | ray.")] = "inprocess",
    seed: Annotated[int, typer.Option(help="Everything derives from it.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Delete the run in --out first.")] = False,
) -> None:
    """Runs a simulation."""
    if context.invoked_subcommand is not None:
        return
    from omnifed_sim.run_folder import open_run

    values = {
        "preset": preset, "data": data, "sites": names(sites), "split": split, "skew": skew,
        "hold_out": names(hold_out), "search": names(search), "arms": names(arms), "rounds": rounds, "steps": steps,
        "student": student, "teacher": teacher, "teacher_steps": teacher_steps, "checkpoint": checkpoint,
        "image_size": image_size, "lr": lr, "emulate": emulate, "deadline": deadline, "wire": wire,
        "aggregation": aggregation,
        "epsilon": epsilon, "backend": backend, "seed": seed,
    }  # fmt: skip
    given: dict[str, Any] = {
        name: value
        for name, value in values.items()
        if (source := context.get_parameter_source(name)) is not None and source.name != "DEFAULT"
    }
    if device:
        given["architecture"] = {"targets": [target(text) for text in device]}
    wanted = settings(config, given) if given or config or not resume else None
    chosen = open_run(out, wanted, resume=resume, overwrite=overwrite)
    # What is refused above does not wait for torch, MONAI and Flower, which take seconds.
    from omnifed_sim.console import Screen
    from omnifed_sim.run import run

    screen, started = Screen(), time.perf_counter()
    with screen.live():
        report = run(chosen, out, screen)
    from omnifed.reporting.console import summary_table
    from omnifed.reporting.search_console import search_tables

    for shown in (*search_tables(out), summary_table(out)):
        screen.console.print(shown)
    screen.say(f"{(time.perf_counter() - started) / 60:.1f} min. Report: {report}")


@app.command("pretrain-teacher")
def pretrain_teacher(
    out: Annotated[Path, typer.Option(help="Where the weights go.")] = Path("sam_tiny.safetensors"),
    steps: Annotated[int, typer.Option(help="Optimiser steps; a second or so each.", min=1)] = 1000,
    seed: Annotated[int, typer.Option(help="Of the phantoms and the weights.", min=0)] = 0,
) -> None:
    """Makes the embedded teacher: sam-tiny, pre-trained on endless phantoms.

    Example: `omnifed-sim pretrain-teacher --steps 1000 --out sam_tiny.safetensors`
    """
    from omnifed_sim.console import Screen
    from omnifed_sim.pretrain import pretrain

    screen = Screen()
    with screen.live():
        screen.stage("pre-training", 1)
        pretrain(out, steps=steps, seed=seed, progress=screen.progress_of("sam-tiny"))
    screen.say(f"weights: {out}")


@app.command("phantoms")
def phantoms(
    out: Annotated[Path, typer.Argument(help="Folder for the sites.")],
    preset: Annotated[str, typer.Option(help="modalities | hospitals.")] = "modalities",
    seed: Annotated[int, typer.Option(help="Same seed, same bytes.")] = 0,
    image_size: Annotated[int, typer.Option(help="Side in pixels.")] = 128,
) -> None:
    """Writes phantom sites in their native formats, to look at or to try `omnifed check` on.

    Example: `omnifed-sim phantoms /tmp/sites --preset hospitals`
    """
    chosen = settings(None, {"preset": preset, "seed": seed, "image_size": image_size})
    from omnifed_sim.phantoms import write_preset

    for folder in write_preset(chosen.preset, out, seed=chosen.seed, image_size=chosen.image_size or 128):
        typer.echo(str(folder))
