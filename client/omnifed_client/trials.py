"""A trial at the site: a student trained briefly on a part of the patients, and its score on the validation cases."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence

import numpy as np

from omnifed.data.prepare import SiteData
from omnifed.data.splits import FEWEST
from omnifed.data.subset import subset
from omnifed.errors import OmniFedError
from omnifed.federation.replies import TrialReply
from omnifed.federation.tasks import TrialTask
from omnifed.models.registry import build_student
from omnifed.models.weights import load_state
from omnifed.progress import Progress
from omnifed.states import State
from omnifed.training.loop import FitResult, Objective, fit
from omnifed.training.objectives import distilled, supervised
from omnifed_client.gate import every_case_dice
from omnifed_client.store import SiteStore
from omnifed_client.student import batches, omnikd, scales_of
from omnifed_client.teaching import Lesson

WIDEST = 0.5
"""Standard error of a single case: the largest standard deviation that figures in 0..1 can have."""


def run_trial(
    task: TrialTask,
    state: State,
    data: SiteData,
    store: SiteStore,
    lesson: Lesson | None,
    progress: Progress | None = None,
) -> TrialReply:
    """Trains and scores; the same task gives the same Dice to the bit. It keeps nothing but the anchor's scores.

    The student is scored where its training ends: the best of several validations would flatter it.

    Args:
        task: what to train, how, on how much.
        state: what the student starts from, or a part of it.
        data: the site's splits.
        store: keeps the anchor's scores of single cases.
        lesson: the teacher's cache, where the task distils.
        progress: told about steps.

    Returns:
        The reply without its seconds, which are filled in by the caller.

    Raises:
        OmniFedError: OF760 without a validation case to score on, OF318 if ``state`` does not fit the student, OF510
            if there is something to distil and no teacher, OF401 or OF402 from the training.
    """
    if not data.val.has_mask.any():
        raise _unscored("no validation case has a mask")
    part = subset(data.train, task.fraction, task.train.seed)
    model = build_student(task.student, data.config.spec, seed=task.train.seed)
    load_state(model, state)
    kd = omnikd(task.distill, model, lesson, {}, fixed=_fixed(task))
    objective: Objective = distilled(kd) if kd else supervised()
    spec = task.train.model_copy(update={"validate_every": 0, "patience": 0})
    clock = _Clock(progress)
    source = batches(part, spec, lesson if kd else None)
    result = fit(model, part, None, spec, objective, batches=source, progress=clock)
    dice = every_case_dice(model, data)
    se, paired = _spread(task, dice, data, store)
    return TrialReply(
        id=task.id,
        site=data.config.name,
        dice=float(np.nanmean(dice)),
        se=se,
        paired=paired,
        n=int((~np.isnan(dice)).sum()),
        patients=len(set(part.patients)),
        step_seconds=clock.step_seconds(result),
        scales=scales_of(kd),
    )


def standard_error(values: np.ndarray, patients: Sequence[str]) -> float:
    """Standard error of a mean, s / sqrt(n), between patients: slices of one patient are alike.

    Args:
        values: (n,) scores, none of them NaN.
        patients: n patient keys. With fewer than three patients the cases are compared instead.

    Returns:
        0 or more; :data:`WIDEST` for a single value.
    """
    names = np.asarray(patients)
    means = np.array([values[names == name].mean() for name in dict.fromkeys(patients)])
    sample = means if len(means) >= FEWEST else values
    return float(sample.std(ddof=1) / math.sqrt(len(sample))) if len(sample) > 1 else WIDEST


def _spread(task: TrialTask, dice: np.ndarray, data: SiteData, store: SiteStore) -> tuple[float, bool]:
    """Standard error of the mean Dice, or of its difference from the anchor's; whether it is the latter."""
    defined = ~np.isnan(dice)
    if not defined.any():
        raise _unscored("nothing is to be found in any validation case")
    patients = np.asarray(data.val.patients)
    if task.anchor:
        store.save_anchor(task.arm, task.group, data.val.ids, dice)
    else:
        anchor = store.load_anchor(task.arm, task.group, data.val.ids)
        both = defined & ~np.isnan(anchor) if anchor is not None else np.zeros_like(defined)
        if anchor is not None and both.sum() > 1:
            return standard_error((dice - anchor)[both], list(patients[both])), True
    return standard_error(dice[defined], list(patients[defined])), False


def _fixed(task: TrialTask) -> dict[str, float]:
    return {str(term): value for term, value in task.distill.scales.items()} if task.distill else {}


class _Clock:
    """Times the steps on their way to whoever watches them."""

    def __init__(self, progress: Progress | None) -> None:
        self.progress = progress
        self.ends: list[float] = []

    def __call__(self, done: int, total: int, text: str) -> None:
        self.ends.append(time.perf_counter())
        if self.progress is not None:
            self.progress(done, total, text)

    def step_seconds(self, result: FitResult) -> float:
        """Median of all steps but the first, which pays for what a process loads and plans once."""
        took = [end - start for start, end in zip(self.ends, self.ends[1:], strict=False)]
        return statistics.median(took) if took else result.seconds / result.steps


def _unscored(seen: str) -> OmniFedError:
    return OmniFedError(
        "OF760",
        "A site needs validation cases with a mask to score trials.",
        seen=seen,
        remedy="Give the site at least three patients with masks, or leave it out of the search.",
    )
