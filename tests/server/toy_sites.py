"""Executors for the tests: real arithmetic, real students, and every kind of fault."""

from __future__ import annotations

import os
import time
import zlib
from pathlib import Path

import numpy as np

from omnifed.federation.replies import FitReply, HelloReply, Reply
from omnifed.federation.tasks import FitTask, HelloTask, Task
from omnifed.models.base import SiteSpec, partition
from omnifed.states import State, read_state, write_state

CLASSES = 2


def hello(task: Task, site: str, channels: int = 1) -> HelloReply:
    return HelloReply(
        id=task.id, site=site, version="0", channels=channels, classes=CLASSES, labels=("background", "lesion"),
        modality="ct", image_size=(32, 32), train=cases(site), val=1, test=1,
    )  # fmt: skip


def cases(site: str) -> int:
    return 1 + zlib.crc32(site.encode()) % 50


class Drift:
    """Adds a number drawn from (site, round) to each array; keeps nothing, so it is repeatable. Faults by name."""

    def __init__(self, site: str, faults: dict[str, str] | None = None) -> None:
        self.site, self.fault = site, (faults or {}).get(site, "")

    def execute(self, task: Task, state: State) -> tuple[Reply, State]:
        if isinstance(task, HelloTask):
            return hello(task, self.site), {}
        assert isinstance(task, FitTask)
        draw = np.random.default_rng([task.round, zlib.crc32(self.site.encode())])
        upload = {
            key: value + draw.standard_normal(value.shape).astype(value.dtype) if value.dtype.kind == "f" else value + 1
            for key, value in state.items()
        }
        reply = FitReply(
            id=task.id, site=self.site, n=cases(self.site), steps=task.train.steps, loss={"supervised": 1.0},
            dice=0.5, adopted=True, scales={"logits": float(cases(self.site))} if task.distill else {},
        )  # fmt: skip
        key = next((key for key, value in upload.items() if value.dtype.kind == "f"), "")
        if self.fault == "raises":
            raise RuntimeError("patient Müller, /data/secret")
        if self.fault == "nan":
            upload[key] = upload[key] * np.nan
        if self.fault == "nan-figure":
            reply = reply.model_copy(update={"dice": float("nan")})
        if self.fault == "shape":
            upload[key] = upload[key].reshape(-1)[:-1]
        if self.fault == "missing":
            del upload[key]
        if self.fault == "other":
            reply = reply.model_copy(update={"id": "another-task"})
        if self.fault == "impostor":
            reply = reply.model_copy(update={"site": "a"})
        if self.fault == "slow":
            time.sleep(0.4)
        if self.fault == "once":  # fails in its first call alone
            self.fault = ""
            raise ValueError("first call")
        if self.fault == "process":
            os._exit(1)
        return reply, upload


class Learner:
    """A real student on a few random images; its whole state stays at the site as the real executor's does."""

    def __init__(self, site: str, folder: Path, channels: int = 1) -> None:
        self.site, self.folder, self.spec = site, folder / site, SiteSpec(channels, CLASSES)

    def execute(self, task: Task, state: State) -> tuple[Reply, State]:
        import torch
        from torch.nn import functional

        from omnifed.models.registry import build_student
        from omnifed.models.weights import load_state, to_state

        if isinstance(task, HelloTask):
            return hello(task, self.site, self.spec.channels), {}
        assert isinstance(task, FitTask)
        model = build_student(task.student, self.spec, seed=task.train.seed)
        sides = partition(model.layer_groups(), task.local_layers)
        own = self.folder / f"{task.arm}-{task.round - 1}.safetensors"
        if own.is_file():
            load_state(model, read_state(own)[0])
        load_state(model, state)
        draw = torch.Generator().manual_seed(zlib.crc32(self.site.encode()))
        x = torch.randn(2, self.spec.channels, 32, 32, generator=draw)
        y = torch.randint(0, CLASSES, (2, 32, 32), generator=draw)
        optimizer = torch.optim.SGD(model.parameters(), lr=task.train.lr)
        for _ in range(task.train.steps):
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(x).logits, y)
            loss.backward()
            optimizer.step()
        final = to_state(model)
        write_state(self.folder / f"{task.arm}-{task.round}.safetensors", final, {})
        reply = FitReply(
            id=task.id, site=self.site, n=cases(self.site), steps=task.train.steps, loss={"supervised": loss.item()},
            dice=0.5, adopted=True,
        )  # fmt: skip
        if task.upload == "none":
            return reply, {}
        return reply, {key: v for key, v in final.items() if task.upload == "all" or sides[key] == "global"}


def drifts(faults: dict[str, str] | None = None):
    """Factory by import path, for Ray."""
    return lambda site: Drift(site, faults)


def learners(folder: str):
    return lambda site: Learner(site, Path(folder))
