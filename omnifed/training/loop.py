"""The one loop that fits students and teachers."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from omnifed.data.prepared import Prepared
from omnifed.errors import OmniFedError
from omnifed.models.base import Out
from omnifed.progress import Progress
from omnifed.states import StateFile
from omnifed.training import checkpoint as disk
from omnifed.training.batch import Batch
from omnifed.training.batches import Batches
from omnifed.training.optimiser import adamw, learning_rate, pack, unpack
from omnifed.training.precision import Precision, choose
from omnifed.training.spec import TrainSpec

log = logging.getLogger(__name__)

CHECKPOINT_SECONDS = 20.0
"""Least time between two checkpoints."""

CHECKPOINT_SHARE = 0.05
"""Largest share of the time that goes into writing them: a large model waits longer."""


class Objective(Protocol):
    """``objective(model, batch, step)`` returns the loss and its parts by name, for global step ``step``.

    One that is also a ``torch.nn.Module`` has its parameters trained with the model's, and its state checkpointed.
    """

    def __call__(self, model: nn.Module, batch: Batch, step: int, /) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss (scalar with graph) and its parts (scalars)."""


class Source(Protocol):
    """Where batches come from: :class:`omnifed.training.batches.Batches`, or several of them in turn."""

    def batch(self, step: int, /) -> Batch:
        """The batch of global step ``step``, a pure function of it."""


class Gradients(Protocol):
    """Another way to make gradients, as :class:`omnifed.privacy.dp.gradients.PatientGradients` does."""

    def attach(self, model: nn.Module, optimiser: torch.optim.Optimizer, /) -> torch.optim.Optimizer:
        """Called once before the first step; returns the optimiser whose step finishes and takes the gradient."""

    def backward(self, model: nn.Module, objective: Any, batch: Batch, step: int, /) -> dict[str, float]:
        """Instead of the loss's ``backward``; returns losses by name, ``total`` among them."""

    def detach(self) -> None:
        """Called once after the last step."""


@dataclass(frozen=True)
class FitResult:
    """What a fit leaves besides the model itself.

    Attributes:
        steps: optimiser steps that were taken.
        loss: means over these steps: ``total`` and each part by name.
        dice: validation Dice (0..1) of the state that the model has now; NaN without validation.
        best_step: step of that state, 1-based within this call.
        seconds: wall time, that of a killed predecessor included.
        stopped_early: whether ``patience`` ended the fit.
        optimizer_state: tensors by name; hand it to the next round's fit to go on.
        history: (step, Dice) of each validation.
        precision: what was used.
    """

    steps: int
    loss: dict[str, float]
    dice: float
    best_step: int
    seconds: float
    stopped_early: bool
    optimizer_state: dict[str, Tensor]
    history: list[tuple[int, float]]
    precision: Precision


@dataclass
class _Course:
    """Where a fit stands; JSON in the checkpoint's head."""

    step: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    history: list[tuple[int, float]] = field(default_factory=list)
    best_step: int = 0
    best_dice: float = -1.0
    seconds: float = 0.0


def fit(
    model: nn.Module,
    train: Prepared,
    val: Prepared | None,
    spec: TrainSpec,
    objective: Objective,
    *,
    batches: Source | None = None,
    checkpoint: StateFile | None = None,
    progress: Progress | None = None,
    optimizer_state: Mapping[str, Tensor] | None = None,
    validate: Callable[[nn.Module], float] | None = None,
    gradients: Gradients | None = None,
) -> FitResult:
    """Fits ``model`` in place, on the device it is on; only parameters that require gradients change.

    With ``validate_every`` the model ends in its best state by validation Dice, otherwise in its last. A fit that is
    killed and called again with the same arguments ends in the very same weights as an undisturbed one, on the same
    machine with the same number of threads.

    Args:
        model: image (B, C, H, W) to :class:`omnifed.models.base.Out`, or whatever ``objective`` calls.
        train: images to learn from.
        val: images to validate on; without masks among them there is no validation.
        spec: the settings.
        objective: loss of a batch, see :mod:`omnifed.training.objectives`.
        batches: default ``Batches(train, spec)``.
        checkpoint: file from which a killed fit goes on; removed at the end. One of another fit is not used.
        progress: called each step.
        optimizer_state: of the round before.
        validate: Dice of the model, instead of the mean Dice on ``val``.
        gradients: makes them instead of the loss's ``backward``; ``grad_clip`` then leaves them alone.

    Raises:
        OmniFedError: OF401 if the loss or its gradient is no longer finite: the model keeps its last good state.
            OF402 if there is nothing to learn from. OF103 if the disk is full: the checkpoint before stays. OF875 if a
            sealed checkpoint does not open.
    """
    return _Fit(
        model,
        train,
        spec,
        objective,
        batches or Batches(train, spec),
        checkpoint,
        optimizer_state,
        _dice_on(val, validate),
        gradients,
    ).run(progress)


class _Fit:
    """State of one call of :func:`fit`."""

    def __init__(
        self,
        model: nn.Module,
        train: Prepared,
        spec: TrainSpec,
        objective: Objective,
        batches: Source,
        file: StateFile | None,
        optimizer_state: Mapping[str, Tensor] | None,
        validate: Callable[[nn.Module], float] | None,
        gradients: Gradients | None,
    ) -> None:
        self.model, self.spec, self.objective, self.batches = model, spec, objective, batches
        self.file, self.validate, self.gradients = file, validate, gradients
        self.device = next(model.parameters()).device
        extra = objective if isinstance(objective, nn.Module) else nn.Module()
        extra.to(self.device).train()
        self.extra_state = {name: value.detach() for name, value in extra.state_dict().items()}
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.parameters |= {f"objective.{name}": p for name, p in extra.named_parameters() if p.requires_grad}
        self.buffers = [*model.buffers(), *extra.buffers()]
        self.optimiser: torch.optim.Optimizer = adamw(self.parameters, spec)
        unpack(optimizer_state or {}, self.optimiser, self.parameters)
        self.course = _Course()
        self.best: dict[str, Tensor] = {}
        self.mark = ""
        if file is not None:
            start = {**disk.trained_state(model), **{f"objective.{k}": v for k, v in self.extra_state.items()}}
            self.mark = disk.fingerprint(spec, train, {**start, **(optimizer_state or {})})
        self.precision = self._resume() or choose(spec.precision, self.device)
        self.saved_at, self.save_cost = time.perf_counter(), 0.0

    def _resume(self) -> Precision | None:
        loaded = disk.load(self.file, self.mark, ("model", "objective", "optimiser", "best")) if self.file else None
        if loaded is None:
            return None
        groups, head = loaded
        disk.restore(disk.trained_state(self.model), groups["model"])
        disk.restore(self.extra_state, groups["objective"])
        unpack(groups["optimiser"], self.optimiser, self.parameters)
        self.best = groups["best"]
        course = head["course"]
        self.course = _Course(**{**course, "history": [(step, dice) for step, dice in course["history"]]})
        log.info("The fit goes on after step %d.", self.course.step)
        # A new measurement could choose another precision: then the result would not be the same.
        return Precision(**head["precision"])

    def run(self, progress: Progress | None) -> FitResult:
        log.info("Training in %s (%s).", self.precision, self.precision.why)
        began, earlier = time.perf_counter(), self.course.seconds
        self.model.to(memory_format=self.precision.memory_format)  # type: ignore[call-overload]
        stopped = False
        try:
            if self.gradients is not None:
                self.optimiser = self.gradients.attach(self.model, self.optimiser)
            while self.course.step < self.spec.steps and not stopped:
                self.model.train()
                total = self._step(self.spec.first_step + self.course.step)
                self.course.step += 1
                self.course.seconds = earlier + time.perf_counter() - began
                stopped = self._validation()
                if not stopped:
                    self._save_now_and_then()
                if progress is not None:
                    progress(self.course.step, self.spec.steps, f"loss {total:.3f}{self._dice_text()}")
        finally:
            if self.gradients is not None:
                self.gradients.detach()
            if self.best and self.spec.validate_every:
                disk.restore(disk.trained_state(self.model), self.best)
            self.model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
            self.model.eval()
        if self.file is not None:
            self.file.path.unlink(missing_ok=True)
        return self._result(stopped)

    def _result(self, stopped: bool) -> FitResult:
        course = self.course
        kept = bool(self.best) and self.spec.validate_every > 0
        dice = course.best_dice if kept else course.history[-1][1] if course.history else math.nan
        return FitResult(
            steps=course.step,
            loss={name: value / course.step for name, value in course.sums.items()},
            dice=dice,
            best_step=course.best_step if kept else course.step,
            seconds=course.seconds,
            stopped_early=stopped,
            optimizer_state=pack(self.optimiser, self.parameters),
            history=list(course.history),
            precision=self.precision,
        )

    def _step(self, step: int) -> float:
        batch = _to(self.batches.batch(step), self.device, self.precision)
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.spec, step)
        self.optimiser.zero_grad(set_to_none=True)
        if self.gradients is None:
            values = self._backward(batch, step)
        else:
            values = self.gradients.backward(self.model, self.objective, batch, step)
        self.optimiser.step()
        for name, value in values.items():
            self.course.sums[name] = self.course.sums.get(name, 0.0) + value
        return values["total"]

    def _backward(self, batch: Batch, step: int) -> dict[str, float]:
        before = [buffer.clone() for buffer in self.buffers]
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision.dtype == "bf16"):
            loss, parts = self.objective(self.model, batch, step)
        values = {"total": float(loss.detach()), **{name: float(part.detach()) for name, part in parts.items()}}
        if loss.requires_grad:
            loss.backward()
        limit = self.spec.grad_clip or math.inf
        norm = float(nn.utils.clip_grad_norm_(list(self.parameters.values()), limit))
        if not (math.isfinite(values["total"]) and math.isfinite(norm)):
            self._give_up(step, values, norm, before)
        return values

    def _give_up(self, step: int, values: Mapping[str, float], norm: float, before: list[Tensor]) -> None:
        with torch.no_grad():
            for buffer, old in zip(self.buffers, before, strict=True):
                buffer.copy_(old)
        self.optimiser.zero_grad(set_to_none=True)
        raise OmniFedError(
            "OF401",
            "Loss and gradient must stay finite; the fit stops and keeps its last good state.",
            seen=f"step {step}: "
            + ", ".join(f"{k}={v:.4g}" for k, v in values.items())
            + f", gradient norm {norm:.4g}",
            remedy="Lower the learning rate, set precision to fp32, or look for broken images with `omnifed check`.",
        )

    def _validation(self) -> bool:
        """Validates where it is due; True if the fit stops early."""
        spec, course = self.spec, self.course
        last = course.step == spec.steps
        if self.validate is None or not (last or (spec.validate_every and course.step % spec.validate_every == 0)):
            return False
        dice = float(self.validate(self.model))
        if not math.isfinite(dice):
            return False
        course.history.append((course.step, dice))
        if dice > course.best_dice:
            course.best_dice, course.best_step = dice, course.step
            if spec.validate_every:
                self.best = disk.copy_state(disk.trained_state(self.model))
        worse = sum(step > course.best_step for step, _ in course.history)
        return not last and 0 < spec.patience <= worse

    def _save_now_and_then(self) -> None:
        now = time.perf_counter()
        due = now - self.saved_at >= max(CHECKPOINT_SECONDS, self.save_cost * (1 / CHECKPOINT_SHARE - 1))
        if self.file is None or self.course.step == self.spec.steps or not due:
            return
        groups = {
            "model": disk.trained_state(self.model),
            "objective": self.extra_state,
            "optimiser": pack(self.optimiser, self.parameters),
            "best": self.best,
        }
        head: dict[str, Any] = {
            "fingerprint": self.mark,
            "course": vars(self.course),
            "precision": vars(replace(self.precision)),
        }
        disk.save(self.file, groups, head)
        self.saved_at = time.perf_counter()
        self.save_cost = self.saved_at - now

    def _dice_text(self) -> str:
        return f", Dice {self.course.history[-1][1]:.3f}" if self.course.history else ""


def _to(batch: Batch, device: torch.device, precision: Precision) -> Batch:
    def move(tensor: Tensor) -> Tensor:
        return tensor.to(device, non_blocking=True)

    teacher = batch.teacher
    if teacher is not None:
        teacher = Out(move(teacher.logits), {k: move(v) for k, v in teacher.features.items()})
    return Batch(
        image=batch.image.to(device, memory_format=precision.memory_format, non_blocking=True),
        label=move(batch.label),
        has_label=move(batch.has_label),
        present=move(batch.present),
        index=move(batch.index),
        teacher=teacher,
    )


def _dice_on(
    val: Prepared | None, validate: Callable[[nn.Module], float] | None
) -> Callable[[nn.Module], float] | None:
    if validate is not None or val is None or not np.any(val.has_mask):
        return validate

    def mean_dice_on_val(model: nn.Module) -> float:
        from omnifed.evaluation.metrics import mean_dice
        from omnifed.evaluation.predict import predict_masks

        return mean_dice(predict_masks(model, val), val)

    return mean_dice_on_val
