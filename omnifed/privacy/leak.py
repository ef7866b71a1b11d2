"""Attacks a student with the patients of its own site: the site alone can, as it knows who was trained on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from omnifed.data.prepare import prepare
from omnifed.data.prepared import Prepared
from omnifed.data.site import SiteConfig
from omnifed.errors import OmniFedError
from omnifed.export.source import Source
from omnifed.models.registry import build_student
from omnifed.models.weights import load_state
from omnifed.privacy.membership import FEWEST, AttackName, SiteAudit, attack_of
from omnifed.training.losses import segmentation_loss

BATCH = 8
Progress = Callable[[int, int], None]
"""``progress(done, total)`` in slices."""


@dataclass(frozen=True)
class Signals:
    """What an attacker reads off a student, one value a patient, in the order of the patients.

    Attributes:
        loss: mean over the patient's slices of the supervised loss (cross entropy and soft Dice).
        entropy: mean entropy of a pixel's class, in nats.
    """

    loss: np.ndarray
    entropy: np.ndarray


Scores = dict[AttackName, tuple[np.ndarray, np.ndarray]]
"""By attack: scores of members (m,) and of others (n,); they stay in this process."""


def audit(
    source: Source,
    arm: str,
    cache: Path,
    references: Sequence[Source] = (),
    progress: Progress = lambda done, total: None,
) -> tuple[SiteAudit, Scores]:
    """Attacks the student that a site would deploy.

    Members are the patients of the training split, others those of validation and test, in both cases as far as they
    have a mask. Training images enter as they are prepared, without augmentation.

    Args:
        source: the student and its site.
        arm: its name in the report.
        cache: where the site's prepared images lie or go.
        references: students that never saw the site's patients; at least one adds the calibrated attack.
        progress: told about slices.

    Raises:
        OmniFedError: OF892 if a student does not fit the site; what is wrong with the site's folder.
    """
    data = prepare(source.site, cache, image_size=source.image_size)
    own, *others = [_student(each, data.config) for each in (source, *references)]
    splits = [(data.train,), (data.val, data.test)]
    counted = [len({p for split in part for p in _patients(split)}) for part in splits]
    head = SiteAudit(site=data.config.name, arm=arm, members=counted[0], others=counted[1], references=len(others))
    if min(counted) < FEWEST:
        return head, {}
    total = sum(int(s.has_mask.sum()) for part in splits for s in part) * (1 + len(others))
    told = _Count(progress, total)
    mine = [signals(own, part, told) for part in splits]
    scores: Scores = {
        "loss": (-mine[0].loss, -mine[1].loss),
        "confidence": (-mine[0].entropy, -mine[1].entropy),
    }
    if others:
        usual = [np.mean([signals(model, part, told).loss for model in others], axis=0) for part in splits]
        scores["calibrated"] = (usual[0] - mine[0].loss, usual[1] - mine[1].loss)
    return head.model_copy(update={"attacks": tuple(attack_of(name, *pair) for name, pair in scores.items())}), scores


def signals(model: nn.Module, splits: Sequence[Prepared], told: Callable[[int], None] = lambda n: None) -> Signals:
    """Loss and entropy of each patient who has a mask.

    Args:
        model: from images (B, C, H, W) to an :class:`~omnifed.models.base.Out` with logits (B, classes, H, W).
        splits: of one site; no patient is in two of them.
        told: called with the number of slices that were done.
    """
    names: list[str] = []
    values: list[tuple[float, float]] = []
    model.eval()
    with torch.inference_mode():
        for split in splits:
            rows = np.flatnonzero(split.has_mask)
            for start in range(0, len(rows), BATCH):
                part = rows[start : start + BATCH]
                images = torch.from_numpy(np.asarray(split.images[part], np.float32))
                masks = torch.from_numpy(np.asarray(split.masks[part], np.int64))
                values += _of_slices(model(images).logits.float(), masks, torch.from_numpy(split.present))
                names += [split.patients[row] for row in part]
                told(len(part))
    table, keys = np.array(values).reshape(-1, 2), np.array(names)
    means = np.array([table[keys == name].mean(0) for name in dict.fromkeys(names)]).reshape(-1, 2)
    return Signals(means[:, 0], means[:, 1])


def _of_slices(logits: Tensor, masks: Tensor, present: Tensor) -> list[tuple[float, float]]:
    """Loss and mean entropy of each of B slices."""
    # The loss leaves absent classes out of the softmax; so must the entropy, or it would be of another distribution.
    kept = present.clone()
    kept[0] = True
    logs = logits[:, kept].log_softmax(1)
    entropy = -(logs.exp() * logs).sum(1).mean((1, 2))
    yes = torch.ones(1, dtype=torch.bool)
    losses = [
        segmentation_loss(one[None], mask[None], yes, present)[0] for one, mask in zip(logits, masks, strict=True)
    ]
    return [(float(a), float(b)) for a, b in zip(losses, entropy, strict=True)]


def _patients(split: Prepared) -> set[str]:
    return {split.patients[row] for row in np.flatnonzero(split.has_mask)}


def _student(source: Source, config: SiteConfig) -> nn.Module:
    model = build_student(source.student, config.spec)
    absent = [key for key in model.state_dict() if key not in source.state and not key.endswith("num_batches_tracked")]
    try:
        if absent:
            raise OmniFedError("OF892", "", seen=f"{absent[0]} is missing ({len(absent)} in all)")
        load_state(model, source.state)
    except OmniFedError as error:
        raise OmniFedError(
            "OF892",
            "A student that is audited, or calibrates an audit, must fit the site's channels and labels.",
            seen=error.seen,
            remedy="Name the student that was trained (--student) and the folder of its site (--data).",
        ) from None
    return model


class _Count:
    def __init__(self, progress: Progress, total: int) -> None:
        self.progress, self.total, self.done = progress, total, 0

    def __call__(self, slices: int) -> None:
        self.done += slices
        self.progress(self.done, self.total)
