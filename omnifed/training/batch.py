"""One training batch, the same for students and teachers."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from omnifed.models.base import Out


@dataclass
class Batch:
    """B slices of one site.

    Attributes:
        image: (B, C, H, W) float32, normalised.
        label: (B, H, W) int64 label ids, ``IGNORE`` (255) where there is no label.
        has_label: (B,) bool, False for an image without a mask: it trains through the teacher's terms alone.
        present: (classes,) bool, classes that the site has; the others are left out of the loss.
        teacher: the teacher's output for the very same view of each image, or None.
        index: (B,) int64 rows of the :class:`omnifed.data.prepared.Prepared` split.
    """

    image: Tensor
    label: Tensor
    has_label: Tensor
    present: Tensor
    index: Tensor
    teacher: Out | None = None
