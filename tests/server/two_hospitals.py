"""Two hospitals made by hand with real executors; a campaign is started over them as often as one likes."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from omnifed.data.prepare import SiteData
from omnifed.data.prepared import Prepared
from omnifed.data.site import Normalisation, SiteConfig
from omnifed.events import EventLog
from omnifed.federation.replies import FailedReply
from omnifed.federation.tasks import Task
from omnifed.states import State
from omnifed.transport.apps import client_app
from omnifed.transport.inprocess import InProcessGrid
from omnifed.transport.pool import TaskPool
from omnifed_client.executor import SiteExecutor
from omnifed_server.campaign import CampaignResult, run_campaign
from omnifed_server.federation_file import FederationConfig

SITES = ("north", "east")
NO_EXPORT = ("prepare", "teach", "train", "evaluate")
"""An export takes seconds; the others do not."""
TEACHER = {
    "kind": "sam-tiny",
    "size": 64,
    "views": 1,
    "train": {"steps": 1, "batch_size": 2, "validate_every": 0, "warmup": 0},
}


def config(**changes: Any) -> FederationConfig:
    values = {
        "name": "test", "sites": SITES, "arms": ("local", "omnikd"), "rounds": 2, "steps": 1, "batch_size": 2,
        "student": "omnisegnet:alpha=0.6,beta=0.5,stem_stride=2", "teacher": TEACHER, "wait_s": 0,
    }  # fmt: skip
    return FederationConfig.model_validate({**values, **changes})


def split(site: SiteConfig, n: int, seed: int) -> Prepared:
    rng = np.random.default_rng([seed, zlib.crc32(site.name.encode())])
    images = rng.normal(0, 0.3, (n, 1, 32, 32)).astype(np.float16)
    masks = np.zeros((n, 32, 32), np.uint8)
    images[:, 0, 8:20, 8:20] += 2
    masks[:, 8:20, 8:20] = 1
    names = tuple(f"PATIENT-{site.name}-{seed}-{i}" for i in range(n))
    spacing = np.full((n, 2), np.nan, np.float32)
    return Prepared(site.spec, images, masks, np.ones(n, bool), names, names, names, spacing, np.ones(2, bool))


def site_data(name: str) -> SiteData:
    labels = {0: "background", 1: "square"}
    site = SiteConfig(name=name, modality="mri", labels=labels, normalisation=Normalisation(kind="percentile"))
    return SiteData(site, split(site, 4, 1), split(site, 2, 2), split(site, 3, 3), (), ())


class Killed(BaseException):
    """Stands in for kill -9: nothing may catch it."""


class World:
    """Two hospitals with their disks; a coordinator is started over them as often as a test likes."""

    def __init__(self, folder: Path, fault: Callable[[str, Task], bool] = lambda site, task: False) -> None:
        self.folder, self.fault = folder, fault
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.asked: list[tuple[str, str]] = []

    @property
    def run(self) -> Path:
        return self.folder / "run"

    def executor(self, site: str) -> Any:
        world, real = self, SiteExecutor(site_data(site), self.folder / site)

        class Watched:
            def execute(self, task: Task, state: State) -> Any:
                world.asked.append((site, task.id))
                if world.fault(site, task):
                    return FailedReply(id=task.id, site=site, code="OF511", rule="The task must fit."), {}
                return real.execute(task, state)

        return Watched()

    def start(
        self,
        settings: FederationConfig,
        *,
        sites: tuple[str, ...] = SITES,
        kill: Callable[[str, dict], bool] | None = None,
    ) -> CampaignResult:
        log = EventLog(self.run / "events.jsonl")

        def on_event(event: str, values: dict[str, Any]) -> None:
            self.events.append((event, values))
            if kill and kill(event, values):
                raise Killed
            log.add(event, values)

        pool = TaskPool(InProcessGrid(client_app(self.executor), sites), poll_s=0.0)
        return run_campaign(pool, settings, self.run, on_event)

    def of(self, event: str) -> list[dict[str, Any]]:
        return [values for name, values in self.events if name == event]

    def final(self) -> dict[str, bytes]:
        """What must not depend on what happened on the way."""
        names = ("arms/*/*.safetensors", "metrics.csv", "sites.json", "taught.json")
        return {str(p.relative_to(self.run)): p.read_bytes() for name in names for p in sorted(self.run.glob(name))}
