"""What a site deploys: a model replaces another one only if the site's own validation cases do not speak against it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from omnifed.data.prepare import SiteData
from omnifed.evaluation.metrics import dice_by_case, mean_dice
from omnifed.evaluation.predict import predict_masks
from omnifed.models.student import Student
from omnifed.models.weights import to_state
from omnifed_client.store import SiteStore


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


def every_case_dice(model: Student, data: SiteData) -> np.ndarray:
    """(N,) mean foreground Dice of each validation case; NaN where it defines none."""
    dice = dice_by_case(predict_masks(model, data.val), data.val)
    defined = ~np.isnan(dice)
    counts = defined.sum(1)
    return np.where(counts, np.where(defined, dice, 0).sum(1) / np.maximum(counts, 1), np.nan)


def case_dice(model: Student, data: SiteData) -> np.ndarray:
    """(n,) mean foreground Dice of each validation case that defines one."""
    dice = every_case_dice(model, data)
    return dice[~np.isnan(dice)]


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
