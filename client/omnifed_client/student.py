"""The student at the site: one round of training with the gate, and scoring."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from omnifed.data.prepare import SiteData
from omnifed.distill.omnikd import OmniKD
from omnifed.distill.spec import DistillSpec
from omnifed.errors import OmniFedError
from omnifed.evaluation.metrics import dice_by_case, mean_dice
from omnifed.evaluation.predict import predict_masks
from omnifed.federation.tasks import FitReply, FitTask
from omnifed.models.base import BOTTLENECK, SiteSpec, partition
from omnifed.models.registry import build_student
from omnifed.models.spec import StudentSpec
from omnifed.models.student import Student
from omnifed.models.weights import load_state, to_state, to_tensors
from omnifed.states import State, add_prefix, strip_prefix
from omnifed.teachers.base import Progress
from omnifed.training.batches import Batches
from omnifed.training.loop import Objective, fit
from omnifed.training.objectives import distilled, supervised, with_proximal
from omnifed_client.store import SiteStore
from omnifed_client.teaching import Lesson


@dataclass
class Gate:
    """Adopt-if-not-worse: the model that the site would deploy is the best on its validation cases.

    Attributes:
        round: in which the adopted model was made; -1 before any.
        dice: its validation Dice.
    """

    round: int = -1
    dice: float = -1.0

    def offer(self, store: SiteStore, arm: str, round_: int, model: Student, dice: float) -> bool:
        """Adopts ``model`` if its Dice is not below the adopted one's."""
        if dice < self.dice:
            return False
        self.round, self.dice = round_, dice
        store.save_adopted(arm, round_, to_state(model), dice)
        return True


def fit_round(
    task: FitTask,
    state: State,
    data: SiteData,
    store: SiteStore,
    lesson: Lesson | None,
    progress: Progress | None = None,
) -> tuple[FitReply, State]:
    """Trains the student for one round from the site's own last state with the global part overlaid.

    Args:
        task: what to do.
        state: the global part (and, for a site's first round, possibly local layers to start from).
        data: the site's splits.
        store: where the site's state of the last round lies and this one's goes.
        lesson: the teacher's cache, where the task distils.
        progress: told about steps.

    Returns:
        The reply without its id, site and seconds filled in by the caller, and the state to upload.
    """
    spec = data.config.spec
    model = build_student(task.student, spec, seed=task.train.seed)
    sides = partition(model.layer_groups(), task.local_layers)
    # A site that missed rounds goes on from its newest one, not from the beginning.
    last = store.last_round(task.arm, before=task.round)
    previous = store.load_round(task.arm, last) if last is not None else None
    own, meta = previous if previous else ({}, {})
    load_state(model, strip_prefix("model", own))
    before_round = case_dice(model, data) if task.gate and previous else None
    load_state(model, incoming(state, sides, first=previous is None))
    accepted = before_round is None or not_worse(case_dice(model, data), before_round)
    if not accepted:
        load_state(model, strip_prefix("model", own))
    gate = Gate(meta.get("adopted_round", -1), meta.get("adopted_dice", -1.0))
    before = gate.round
    if state and last is not None and accepted:
        gate.offer(store, task.arm, last, model, validate(model, data))

    kd = _omnikd(task.distill, model, lesson, strip_prefix("distill", own), fixed=_fixed_scales(task, meta))
    objective: Objective = distilled(kd) if kd else supervised()
    if task.prox_mu and state and accepted:
        anchor = {key: value for key, value in to_tensors(state).items() if sides.get(key) == "global"}
        objective = with_proximal(objective, anchor, task.prox_mu)
    optimizer = strip_prefix("optimizer", own)
    checkpoint = store.fit_checkpoint(task.arm, task.round)
    result = fit(
        model,
        data.train,
        data.val,
        task.train,
        objective,
        batches=batches(task, data, lesson),
        checkpoint=checkpoint,
        progress=progress,
        optimizer_state=to_tensors(optimizer) if optimizer else None,
    )
    # Without validation cases every new model is adopted: there is nothing to hold against it.
    dice = result.dice if math.isfinite(result.dice) else 0.0
    adopted = gate.offer(store, task.arm, task.round, model, dice)
    scales = {name: float(value) for name, value in kd.scales.items()} if kd else {}
    kept = add_prefix("model", to_state(model)) | add_prefix("optimizer", to_state(result.optimizer_state))
    if kd:
        kept |= add_prefix("distill", to_state(kd))
    head = {"adopted_round": gate.round, "adopted_dice": gate.dice, "previous_adopted_round": before, "scales": scales}
    store.save_round(task.arm, task.round, kept, head)
    checkpoint.unlink(missing_ok=True)
    labelled = int(data.train.has_mask.sum())
    reply = FitReply(
        id=task.id,
        site=data.config.name,
        n=labelled or len(data.train),
        steps=result.steps,
        loss=dict(result.loss),
        dice=dice,
        adopted=adopted,
        accepted=accepted,
        scales=scales,
    )
    upload = {key: value for key, value in to_state(model).items() if goes_up(key, sides, task)}
    return reply, upload


def incoming(state: State, sides: Mapping[str, str], *, first: bool) -> State:
    """The part of a travelling state that a site takes: the global keys, and local ones only to start from."""
    return {key: value for key, value in state.items() if first or sides.get(key) == "global"}


def goes_up(key: str, sides: Mapping[str, str], task: FitTask) -> bool:
    """Whether a state key leaves the site under this task."""
    return task.upload == "all" or (task.upload == "global" and sides[key] == "global")


def batches(task: FitTask, data: SiteData, lesson: Lesson | None) -> Batches:
    """Labelled images alone, or all images with the teacher's maps beside them."""
    if task.distill is None or lesson is None:
        return Batches(data.train, task.train, labelled_only=True)
    return Batches(data.train, task.train, cache=lesson.cache, views=lesson.views, joint_flips=lesson.joint_flips)


def case_dice(model: Student, data: SiteData) -> np.ndarray:
    """(n,) mean foreground Dice of each validation case that defines one."""
    dice = dice_by_case(predict_masks(model, data.val), data.val)
    defined = ~np.isnan(dice)
    rows = defined.any(1)
    return np.where(defined, dice, 0).sum(1)[rows] / defined.sum(1)[rows]


def not_worse(new: np.ndarray, old: np.ndarray) -> bool:
    """Whether the mean paired difference is not below zero by more than its standard error.

    Cases that only one of the two defines are rare (both found nothing); without pairs nothing speaks against the new.
    """
    if len(new) != len(old) or len(new) == 0:
        return len(new) == 0 or bool(new.mean() >= old.mean())
    difference = new - old
    error = difference.std(ddof=1) / math.sqrt(len(difference)) if len(difference) > 1 else 0.0
    return bool(difference.mean() >= -error)


def validate(model: Student, data: SiteData) -> float:
    """Validation Dice, 0..1."""
    return mean_dice(predict_masks(model, data.val), data.val)


def student_from(state: State, student: StudentSpec, spec: SiteSpec, seed: int = 0) -> Student:
    """A student with ``state`` loaded."""
    model = build_student(student, spec, seed=seed)
    load_state(model, state)
    return model


def _fixed_scales(task: FitTask, meta: Mapping[str, Any]) -> dict[str, float]:
    scales = {str(term): value for term, value in task.distill.scales.items()} if task.distill else {}
    return scales or meta.get("scales", {})


def _omnikd(
    spec: DistillSpec | None, model: Student, lesson: Lesson | None, own: State, *, fixed: Mapping[str, float]
) -> OmniKD | None:
    if spec is None:
        return None
    if lesson is None:
        raise OmniFedError(
            "OF510",
            "A task that distils needs the site's teacher: teach comes before fit.",
            remedy="Send a teach task with the same teacher first.",
        )
    channels = {BOTTLENECK: model.feature_channels[BOTTLENECK]}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        kd = OmniKD(spec.model_copy(update={"scales": dict(fixed)}), channels, lesson.feature_channels)
    if own:
        load_state(kd, {key: value for key, value in own.items() if key in kd.state_dict() and "scale" not in key})
    return kd
