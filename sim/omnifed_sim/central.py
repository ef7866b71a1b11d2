"""The arm `central`: all sites' images in one place, the ceiling that a federation is measured against.

Equal sites (same channels and labels) are pooled into one training set. Unlike sites share one trunk: each has a
student of its own whose global tensors are the very same parameters, and the steps go round the sites.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from omnifed.data.prepare import SiteData
from omnifed.data.prepared import Prepared
from omnifed.evaluation.metrics import mean_dice
from omnifed.evaluation.predict import predict_masks
from omnifed.models.base import LayerGroup, partition
from omnifed.models.registry import build_student
from omnifed.models.spec import StudentSpec
from omnifed.models.student import Student
from omnifed.models.weights import load_state, to_state
from omnifed.progress import Progress
from omnifed.states import State, StateFile
from omnifed.training.batch import Batch
from omnifed.training.batches import Batches
from omnifed.training.loop import fit
from omnifed.training.objectives import supervised
from omnifed.training.spec import TrainSpec


def pool(splits: Sequence[Prepared]) -> Prepared:
    """Concatenates splits of sites with equal channels, classes and sizes; a class counts where any site has it."""
    changes: dict[str, Any] = {"present": np.logical_or.reduce([s.present for s in splits])}
    for name in ("images", "masks", "has_mask", "spacing"):
        changes[name] = np.concatenate([getattr(s, name) for s in splits])
    for name in ("patients", "ids", "keys"):
        changes[name] = tuple(value for s in splits for value in getattr(s, name))
    return dataclasses.replace(splits[0], **changes)


class RoundRobin:
    """Batches of several sites in turn: step s is a batch of site s mod K."""

    def __init__(self, sources: Sequence[Batches]) -> None:
        self.sources = sources

    def batch(self, step: int) -> Batch:
        """The batch of one step."""
        return self.sources[step % len(self.sources)].batch(step // len(self.sources))


def train_central(
    sites: Sequence[SiteData],
    student: StudentSpec,
    spec: TrainSpec,
    local_layers: Sequence[LayerGroup],
    checkpoint: Path | None = None,
    progress: Progress | None = None,
) -> list[State]:
    """Trains on all sites at once, with as many steps in all as the sites of a federation take together.

    Args:
        sites: the sites' splits.
        student: what to train.
        spec: the fit over all rounds of one site; steps are multiplied by the number of sites.
        local_layers: groups that unlike sites cannot share (stem, head, norm); empty for equal sites.
        checkpoint: where a killed fit goes on.
        progress: told about steps.

    Returns:
        A student's state a site, in their order.
    """
    file = StateFile(checkpoint) if checkpoint else None
    total = spec.steps * len(sites)
    spec = spec.model_copy(
        update={"steps": total, "total_steps": total, "first_step": 0, "validate_every": max(1, total // 10)}
    )
    if not local_layers:
        train, val = pool([s.train for s in sites]), pool([s.val for s in sites])
        model = build_student(student, sites[0].config.spec, seed=spec.seed)
        fit(
            model,
            train,
            val,
            spec,
            supervised(),
            batches=Batches(train, spec, labelled_only=True),
            checkpoint=file,
            progress=progress,
        )
        return [to_state(model)] * len(sites)

    models = nn.ModuleList(_shared_trunk(sites, student, spec.seed, local_layers))
    single = supervised()

    def objective(module: nn.Module, batch: Batch, step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return single(module[step % len(sites)], batch, step)  # type: ignore[index]

    def validate(module: nn.Module) -> float:
        pairs = zip(module, sites, strict=True)  # type: ignore[call-overload]
        return float(np.mean([mean_dice(predict_masks(m, s.val), s.val) for m, s in pairs]))

    turns = RoundRobin([Batches(s.train, spec, labelled_only=True) for s in sites])
    fit(
        models,
        sites[0].train,
        None,
        spec,
        objective,
        batches=turns,
        validate=validate,
        checkpoint=file,
        progress=progress,
    )
    return [to_state(model) for model in models]


def _shared_trunk(
    sites: Sequence[SiteData], student: StudentSpec, seed: int, local_layers: Sequence[LayerGroup]
) -> list[Student]:
    """Students whose global parameters are one and the same object."""
    models = [build_student(student, site.config.spec, seed=seed) for site in sites]
    first = dict(models[0].named_parameters())
    for model in models[1:]:
        load_state(model, {k: v for k, v in to_state(models[0]).items() if _is_global(model, k, local_layers)})
        for key, _ in list(model.named_parameters()):
            if _is_global(model, key, local_layers):
                owner, _, name = key.rpartition(".")
                setattr(model.get_submodule(owner), name, first[key])
    return models


def _is_global(model: Student, key: str, local_layers: Sequence[LayerGroup]) -> bool:
    return partition(model.layer_groups(), local_layers)[key] == "global"
