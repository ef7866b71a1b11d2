"""The student at the site: one round of training with the gate."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from omnifed.data.prepare import SiteData
from omnifed.data.prepared import Prepared
from omnifed.distill.omnikd import OmniKD
from omnifed.distill.spec import DistillSpec
from omnifed.errors import OmniFedError
from omnifed.federation.replies import FitReply
from omnifed.federation.tasks import FitTask
from omnifed.models.base import BOTTLENECK, SiteSpec, partition
from omnifed.models.registry import build_student
from omnifed.models.spec import StudentSpec
from omnifed.models.student import Student
from omnifed.models.weights import load_state, to_state, to_tensors
from omnifed.progress import Progress
from omnifed.states import State, add_prefix, strip_prefix
from omnifed.training.batches import Batches
from omnifed.training.loop import FitResult, Objective, fit
from omnifed.training.objectives import distilled, supervised, with_proximal
from omnifed.training.spec import TrainSpec
from omnifed_client.gate import Gate, case_dice, not_worse, validate
from omnifed_client.store import SiteStore
from omnifed_client.teaching import Lesson
from omnifed_client.travel import arrived, leaving


@dataclass
class _Begun:
    """A round that is about to be trained.

    Attributes:
        model: the student with the site's own last state and, if accepted, the global part on top.
        sides: state key to ``global`` or ``local``.
        held: the weights that came with the task, decoded.
        own, meta: what the site kept of its last round; empty before any.
        gate: what is adopted so far.
        before: round in which the adopted model of the last round was made.
        accepted: whether the global part was taken.
    """

    model: Student
    sides: Mapping[str, str]
    held: State
    own: State
    meta: Mapping[str, Any]
    gate: Gate
    before: int
    accepted: bool


def fit_round(
    task: FitTask,
    state: State,
    data: SiteData,
    store: SiteStore,
    lesson: Lesson | None,
    progress: Progress | None = None,
    epsilon_limit: float | None = None,
) -> tuple[FitReply, State]:
    """Trains the student for one round from the site's own last state with the global part overlaid.

    Args:
        task: what to do.
        state: the global part (and, for a site's first round, possibly local layers to start from), as it travelled.
        data: the site's splits.
        store: where the site's state of the last round lies and this one's goes.
        lesson: the teacher's cache, where the task distils.
        progress: told about steps.
        epsilon_limit: of the site's policy, for its patients in all campaigns together.

    Returns:
        The reply without its seconds, which are filled in by the caller, and the state to upload, as it travels.

    Raises:
        OmniFedError: OF850 to OF855 if differential privacy is asked for and cannot be kept.
    """
    if task.privacy.dp:
        from omnifed_client import private_training

        private_training.check(task, data)
    begun = _begin(task, arrived(task, state, store), data, store)
    kd, objective = _objective(task, begun, lesson)
    optimizer = strip_prefix("optimizer", begun.own)
    checkpoint = store.fit_checkpoint(task.arm, task.round)
    release = None
    if task.privacy.dp:
        meta = begun.meta if begun.own else None
        cache = lesson.cache if kd and lesson else None
        release = private_training.open_release(
            task, begun.model, to_tensors(optimizer), meta, data, store, epsilon_limit, cache
        )
    result = fit(
        begun.model,
        data.train,
        data.val,
        release.spec if release else task.train,
        objective,
        batches=release.batches if release else batches(data.train, task.train, lesson if task.distill else None),
        checkpoint=store.file(checkpoint),
        progress=progress,
        optimizer_state=to_tensors(optimizer) if optimizer else None,
        gradients=release.gradients if release else None,
    )
    reply, sent = _finish(task, begun, kd, result, data, store)
    if release:
        # The training loss looks at patients without noise.
        reply = reply.model_copy(update={"n": release.patients, "loss": {}, "scales": {}})
        release.key.unlink(missing_ok=True)
    checkpoint.unlink(missing_ok=True)
    return reply, sent


def _begin(task: FitTask, held: State, data: SiteData, store: SiteStore) -> _Begun:
    model = build_student(task.student, data.config.spec, seed=task.train.seed)
    sides = partition(model.layer_groups(), task.local_layers)
    # A site that missed rounds goes on from its newest one, not from the beginning.
    last = store.last_round(task.arm, before=task.round)
    previous = store.load_round(task.arm, last) if last is not None else None
    own, meta = previous if previous else ({}, {})
    load_state(model, strip_prefix("model", own))
    before_round = case_dice(model, data) if task.gate and previous else None
    load_state(model, incoming(held, sides, first=previous is None))
    accepted = before_round is None or not_worse(case_dice(model, data), before_round)
    if not accepted:
        load_state(model, strip_prefix("model", own))
    gate = Gate(meta.get("adopted_round", -1), meta.get("adopted_dice", -1.0))
    before = gate.round
    if held and last is not None and accepted:
        gate.offer(store, task.arm, last, model, validate(model, data))
    return _Begun(model, sides, held, own, meta, gate, before, accepted)


def _objective(task: FitTask, begun: _Begun, lesson: Lesson | None) -> tuple[OmniKD | None, Objective]:
    own = strip_prefix("distill", begun.own)
    kd = omnikd(task.distill, begun.model, lesson, own, fixed=_fixed_scales(task, begun.meta))
    objective: Objective = distilled(kd) if kd else supervised()
    if task.prox_mu and begun.held and begun.accepted:
        anchor = {key: value for key, value in to_tensors(begun.held).items() if begun.sides.get(key) == "global"}
        objective = with_proximal(objective, anchor, task.prox_mu)
    return kd, objective


def _finish(
    task: FitTask, begun: _Begun, kd: OmniKD | None, result: FitResult, data: SiteData, store: SiteStore
) -> tuple[FitReply, State]:
    """Offers the trained model to the gate, keeps the site's state of this round, and makes the reply."""
    model, gate = begun.model, begun.gate
    # Without validation cases every new model is adopted: there is nothing to hold against it.
    dice = result.dice if math.isfinite(result.dice) else 0.0
    adopted = gate.offer(store, task.arm, task.round, model, dice)
    scales = scales_of(kd)
    kept = add_prefix("model", to_state(model)) | add_prefix("optimizer", to_state(result.optimizer_state))
    if kd:
        kept |= add_prefix("distill", to_state(kd))
    upload = {key: value for key, value in to_state(model).items() if goes_up(key, begun.sides, task)}
    sent = leaving(task, upload, begun.held, strip_prefix("lost", begun.own))
    kept |= add_prefix("lost", sent.lost)
    head = {
        "adopted_round": gate.round,
        "adopted_dice": gate.dice,
        "previous_adopted_round": begun.before,
        "scales": scales,
        "dp": task.privacy.dp is not None,
    }
    store.save_round(task.arm, task.round, kept, head)
    reply = FitReply(
        id=task.id,
        site=data.config.name,
        n=int(data.train.has_mask.sum()) or len(data.train),
        steps=result.steps,
        loss=dict(result.loss),
        dice=dice,
        adopted=adopted,
        accepted=begun.accepted,
        scales=scales,
    )
    return reply, sent.arrays


def incoming(state: State, sides: Mapping[str, str], *, first: bool) -> State:
    """The part of a travelling state that a site takes: the global keys, and local ones only to start from."""
    return {key: value for key, value in state.items() if first or sides.get(key) == "global"}


def goes_up(key: str, sides: Mapping[str, str], task: FitTask) -> bool:
    """Whether a state key leaves the site under this task."""
    return task.upload == "all" or (task.upload == "global" and sides[key] == "global")


def batches(train: Prepared, spec: TrainSpec, lesson: Lesson | None) -> Batches:
    """Labelled images alone, or with a lesson all images and the teacher's maps beside them."""
    if lesson is None:
        return Batches(train, spec, labelled_only=True)
    return Batches(train, spec, cache=lesson.cache, views=lesson.views, joint_flips=lesson.joint_flips)


def student_from(state: State, student: StudentSpec, spec: SiteSpec, seed: int = 0) -> Student:
    """A student with ``state`` loaded."""
    model = build_student(student, spec, seed=seed)
    load_state(model, state)
    return model


def scales_of(kd: OmniKD | None) -> dict[str, float]:
    """m_i by term, as far as measured."""
    return {name: float(value) for name, value in kd.scales.items()} if kd else {}


def _fixed_scales(task: FitTask, meta: Mapping[str, Any]) -> dict[str, float]:
    scales = {str(term): value for term, value in task.distill.scales.items()} if task.distill else {}
    return scales or meta.get("scales", {})


def omnikd(
    spec: DistillSpec | None, model: Student, lesson: Lesson | None, own: State, *, fixed: Mapping[str, float]
) -> OmniKD | None:
    """OmniKD between a student and the site's teacher; None for supervised training.

    Args:
        spec: weights and temperature.
        model: the student.
        lesson: the teacher's cache.
        own: parameters of the round before; empty begins anew.
        fixed: m_i by term; empty measures them.

    Raises:
        OmniFedError: OF510 if there is something to distil and no teacher.
    """
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
