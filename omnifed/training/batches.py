"""What the loop trains on: a pure function of (seed, step), so that a resumed fit sees the same batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from omnifed.data.augment import UPRIGHT, Augment, grid, jitter, warp
from omnifed.data.prepared import Prepared
from omnifed.data.views import apply_view
from omnifed.errors import OmniFedError
from omnifed.models.base import Out
from omnifed.training.batch import Batch
from omnifed.training.spec import TrainSpec


class Cache(Protocol):
    """What is asked of :class:`omnifed.teachers.cache.TeacherCache`."""

    def get(self, keys: Sequence[str], views: Sequence[int]) -> Out:
        """The teacher's output for view ``views[i]`` of the image with key ``keys[i]``."""


class Batches:
    """Batches of one split.

    An epoch is a permutation from (seed, epoch); the draws of a case come from (seed, step, place, case). A split
    smaller than the batch fills it with differently augmented copies, so that batch statistics stay defined.

    Args:
        prepared: the split.
        spec: seed, batch size and whether to augment.
        cache: the teacher's cache: its maps are given the same view and the same deformation as the image. Images
            without a mask are drawn only with it, and fill one place in eight as long as there are labelled ones.
        views: views a training image in the cache; without augmentation only view 0 is used.
        joint_flips: False where the teacher's maps do not commute with mirroring.
        labelled_only: draw no image without a mask.

    Raises:
        OmniFedError: OF402 if there is no image to learn from.
    """

    def __init__(
        self,
        prepared: Prepared,
        spec: TrainSpec,
        *,
        cache: Cache | None = None,
        views: int = 1,
        joint_flips: bool = True,
        labelled_only: bool = False,
    ) -> None:
        self.prepared, self.spec, self.cache, self.views = prepared, spec, cache, views
        self._labelled = np.flatnonzero(prepared.has_mask)
        unlabelled = np.flatnonzero(~np.asarray(prepared.has_mask, bool))
        self._unlabelled = unlabelled if cache is not None and not labelled_only else unlabelled[:0]
        self._augment = Augment(prepared.spec.modality, flips=joint_flips or cache is None) if spec.augment else None
        self._present = torch.from_numpy(np.array(prepared.present, bool))
        if not len(self):
            raise OmniFedError(
                "OF402",
                "Training needs at least one image with a mask, or a teacher for images without one.",
                seen=f"{len(prepared)} training images, {len(self._labelled)} with a mask, "
                f"teacher's cache: {'yes' if cache is not None else 'no'}",
                remedy="Add masks to some training images, or distil from a teacher.",
            )

    def __len__(self) -> int:
        """Images that are drawn."""
        return len(self._labelled) + len(self._unlabelled)

    @property
    def labelled_per_batch(self) -> int:
        """Images with a mask a batch: all but one in eight, so that labels lose hardly any weight to the others.

        With half of each batch unlabelled, a short fit (200 steps) lost 6 Dice points against none.
        """
        size = self.spec.batch_size
        if not len(self._unlabelled):
            return size
        return max(size - max(1, size // 8), 1) if len(self._labelled) else 0

    def rows(self, step: int) -> np.ndarray:
        """(batch_size,) rows of the split that step ``step`` trains on, those with a mask first."""
        labelled = self.labelled_per_batch
        others = self.spec.batch_size - labelled
        return np.concatenate(
            [self._take(0, self._labelled, step, labelled), self._take(1, self._unlabelled, step, others)]
        )

    def _take(self, stream: int, rows: np.ndarray, step: int, count: int) -> np.ndarray:
        taken: list[np.ndarray] = []
        place, end = step * count, (step + 1) * count
        while place < end:
            epoch, start = divmod(place, len(rows))
            order = np.random.default_rng([self.spec.seed, stream, epoch]).permutation(rows)
            taken.append(order[start : start + end - place])
            place += len(taken[-1])
        return np.concatenate(taken) if taken else rows[:0]

    def batch(self, step: int) -> Batch:
        """The batch of global step ``step``."""
        return self._batch(step, self.rows(step))

    def _seeds(self, step: int, rows: np.ndarray) -> np.ndarray:
        """(B, 2) seeds of each image's augmentation and view."""
        return np.stack(
            [
                np.random.SeedSequence([self.spec.seed, step, place, int(row)]).generate_state(2)
                for place, row in enumerate(rows)
            ]
        )

    def _batch(self, step: int, rows: np.ndarray) -> Batch:
        seeds = self._seeds(step, rows)
        image = torch.from_numpy(np.asarray(self.prepared.images[rows], np.float32))
        label = torch.from_numpy(np.asarray(self.prepared.masks[rows]))
        teacher = None
        if self.cache is not None:
            image, label, teacher = self._view(rows, seeds[:, 1], image, label)
        if self._augment is not None:
            size = (image.shape[-2], image.shape[-1])
            draws = self._augment.draw(seeds[:, 0].tolist(), size)
            where = grid(draws, size)
            image = jitter(warp(image, where), draws)
            label = warp(label[:, None].float(), where, nearest=True)[:, 0]
            if teacher is not None:
                teacher = _map(teacher, lambda x: warp(x, grid(draws, x.shape[-2:])))
        return Batch(
            image=image,
            label=label.long(),
            has_label=torch.from_numpy(np.asarray(self.prepared.has_mask[rows], bool)),
            present=self._present,
            index=torch.from_numpy(rows.astype(np.int64)),
            teacher=teacher,
        )

    def _view(self, rows: np.ndarray, draws: np.ndarray, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor, Out]:
        assert self.cache is not None
        keys = [self.prepared.keys[row] for row in rows]
        views = [int(draw) % self.views if self._augment is not None else 0 for draw in draws]
        pairs = list(zip(keys, views, strict=True))
        upright = self.prepared.spec.modality in UPRIGHT

        def seen(stack: Tensor) -> Tensor:
            return torch.stack([apply_view(x, *pair, upright=upright) for x, pair in zip(stack, pairs, strict=True)])

        image, label = seen(image), seen(label)
        return image, label, self.cache.get(keys, views)


def _map(out: Out, function: Callable[[Tensor], Tensor]) -> Out:
    return Out(
        logits=function(out.logits),
        features={name: function(value) for name, value in out.features.items()},
        aux={name: function(value) for name, value in out.aux.items()},
    )
