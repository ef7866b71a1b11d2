"""A whole simulation: sites, teachers, the arms of the comparison, scores, exported models and the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from omnifed.data.prepare import SiteData
from omnifed.data.site_folder import load_site
from omnifed.evaluation.predict import predict_masks
from omnifed.events import EventLog
from omnifed.export.onnx import export_student
from omnifed.federation.executor import Executor, ExecutorOf
from omnifed.files import write_json
from omnifed.models.registry import build_student
from omnifed.models.scaling import architecture_key, costs
from omnifed.models.weights import load_state
from omnifed.reporting.report import write_report
from omnifed.transport.apps import client_app, server_app
from omnifed.transport.flower_compat import Context, Grid, RecordDict
from omnifed.transport.inprocess import InProcessGrid
from omnifed.transport.pool import TaskPool
from omnifed_client.executor import SiteExecutor
from omnifed_server.model_card import write_card
from omnifed_server.plan import EXPORTED
from omnifed_sim import emulation
from omnifed_sim.campaign import Campaign, student_in
from omnifed_sim.config import SimConfig
from omnifed_sim.console import Screen
from omnifed_sim.emulated import emulated
from omnifed_sim.identities import identity_of, make_identities
from omnifed_sim.results import Results, about_site
from omnifed_sim.run_folder import open_run
from omnifed_sim.sites import check_promises_with, prepare_sites, site_folders

PARITY_CASES = 8


def run(config: SimConfig, folder: Path, screen: Screen) -> Path:
    """Runs or continues a simulation.

    Args:
        config: from :func:`~omnifed_sim.run_folder.open_run`.
        folder: RUN.
        screen: what the user sees.

    Returns:
        Path of the report.
    """
    events = EventLog(folder / "events.jsonl")
    screen.stage("sites", 1)
    folders = site_folders(config, folder, screen.progress_of("phantoms"))
    sites = prepare_sites(folders, config, folder, screen.progress_of)
    _tell_skipped(sites, events, screen)
    write_json(folder / "sites.json", [about_site(s, held_out=n in config.hold_out) for n, s in sites.items()])
    training = {name: site for name, site in sites.items() if name not in config.hold_out}
    precision = json.loads((folder / "config.json").read_text())["precision"]
    check_promises_with(config, len(training))
    identity = make_identities(folder, training) if config.aggregation.mode == "private" else None
    campaign = Campaign(config, folder, training, precision, events, screen, identity)
    grid = _grid(config, folder, training, screen)
    try:
        server_app(lambda g: campaign.run(TaskPool(g)))(grid, Context(1, 0, {}, RecordDict(), {}))
    finally:
        if hasattr(grid, "close"):
            grid.close()
    if config.arms:
        _score(config, folder, sites, campaign, screen).write()
        _export(config, folder, training, campaign, events, screen)
        write_card(folder)
    screen.stage("report", 1)
    return write_report(folder)


def _grid(config: SimConfig, folder: Path, sites: dict[str, SiteData], screen: Screen) -> Grid:
    emulated_as = emulation.load(Path(config.emulate)) if config.emulate else None
    clock = emulation.VirtualClock(emulated_as) if emulated_as else None
    if config.backend == "ray":
        from omnifed_sim.ray_grid import RayGrid

        workers = max(1, min(len(sites), torch.get_num_threads()))
        factory = "omnifed_sim.run:executors_of_run"
        return RayGrid(factory, {"run": str(folder.resolve())}, list(sites), workers=workers, schedule=clock)

    def executor_of(name: str) -> Executor:
        state, identity = folder / "sites" / name / "state", identity_of(folder, name)
        own = SiteExecutor(sites[name], state, progress=screen.progress_of(name), identity=identity)
        return emulated(own, emulated_as) if emulated_as else own

    return InProcessGrid(client_app(executor_of), list(sites), schedule=clock)


def executors_of_run(run: str) -> ExecutorOf:
    """The executors of a run in another process: the run folder is on a file system that all of them see."""
    folder = Path(run)
    config = open_run(folder, None, resume=True)
    folders = site_folders(config, folder)

    def executor_of(name: str) -> Executor:
        site = next(path for path in folders if load_site(path).config.name == name)
        data = prepare_sites([site], config, folder, Screen().progress_of)[name]
        own = SiteExecutor(data, folder / "sites" / name / "state", identity=identity_of(folder, name))
        return emulated(own, emulation.load(Path(config.emulate))) if config.emulate else own

    return executor_of


def _tell_skipped(sites: dict[str, SiteData], events: EventLog, screen: Screen) -> None:
    for name, site in sites.items():
        for entry in about_site(site, held_out=False)["skipped"]:  # type: ignore[attr-defined]
            events.add("skip", {"site": name, **entry})
            screen.say(f"{name}: {entry['count']} skipped, {entry['code']}: {entry['reason']}")
        for text in site.warnings:
            events.add("warning", {"site": name, "text": text})
            screen.say(f"{name}: {text}")


def _score(config: SimConfig, folder: Path, sites: dict[str, SiteData], campaign: Campaign, screen: Screen) -> Results:
    results, outcomes, plan = Results(folder, config.seed), campaign.outcomes, campaign.plan
    screen.stage("scores", sum(len(outcome.masks) for outcome in outcomes.values()))
    for arm, outcome in outcomes.items():
        for name, masks in outcome.masks.items():
            dice = results.add(arm, sites[name], masks)
            screen.advance(f"{arm} {name} {dice:.3f}")
        for name in config.hold_out:
            if outcome.shared:
                model = build_student(plan.largest, sites[name].config.spec)
                load_state(model, outcome.shared)
                results.add(arm, sites[name], predict_masks(model, sites[name].test))
        results.add_matrix(arm, [(sites[n], student_in(plan, arm, n), state) for n, state in outcome.adopted.items()])
    return results


def _export(
    config: SimConfig,
    folder: Path,
    sites: dict[str, SiteData],
    campaign: Campaign,
    events: EventLog,
    screen: Screen,
) -> None:
    outcomes, plan = campaign.outcomes, campaign.plan
    arm = next(name for name in EXPORTED if name in outcomes)
    screen.stage("export", len(sites))
    sizes = []
    for name, state in outcomes[arm].adopted.items():
        site = sites[name]
        model = build_student(student_in(plan, arm, name), site.config.spec)
        load_state(model, state)
        samples = torch.from_numpy(site.test.images[:PARITY_CASES].astype("float32"))
        path = folder / f"model-{name}.onnx"
        shape = (int(samples.shape[2]), int(samples.shape[3]))
        report = export_student(model, site.config.model_copy(update={"image_size": shape}), path, samples)
        sizes.append(path.stat().st_size)
        values = {"site": name, "arm": arm, "path": path.name, "bytes": sizes[-1]}
        events.add("export", {**values, "max_logit_difference": report.max_delta})
        screen.advance(name)
    first = next(iter(sites.values()))
    size = int(first.test.images.shape[2])
    cost = costs(plan.largest, first.config.spec, size)
    about: dict[str, Any] = {
        "student": architecture_key(plan.largest),
        "params": cost.params,
        "macs": cost.macs,
        "size": size,
        "onnx_bytes": max(sizes, default=0),
        "exported_arm": arm,
    }
    write_json(folder / "costs.json", about)
