"""What a teacher offers. It never leaves its site."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from omnifed.data.prepared import Prepared
from omnifed.models.base import Out
from omnifed.progress import Progress

if TYPE_CHECKING:
    from torch import Tensor

    from omnifed.states import StateFile

WEIGHTS = "teacher weights"
"""Purpose for which :meth:`Teacher.save` seals."""


class Teacher(Protocol):
    """A segmentation network that knows more than a student can afford."""

    @property
    def id(self) -> str:
        """sha256 (hex) over weights and preprocessing; changes when either does."""

    @property
    def feature_channels(self) -> Mapping[str, int]:
        """Channels of each tap that :meth:`predict` returns; empty for a teacher without features."""

    def fit(
        self,
        train: Prepared,
        val: Prepared,
        *,
        checkpoint: StateFile | None = None,
        progress: Progress | None = None,
    ) -> Mapping[str, float]:
        """Fine-tunes on one site; with ``checkpoint`` a killed fit goes on where it was.

        Returns:
            Metrics, at least ``dice`` (validation, 0..1) and ``seconds``.
        """

    def predict(self, x: Tensor) -> Out:
        """Normalised student images (B, C, H, W) to logits (B, classes, H/4, W/4) and features, without gradients."""

    def save(self, path: Path, key: bytes) -> None:
        """Writes all weights, which have seen patients, encrypted with the site's vault key; atomically, mode 0600."""

    def load(self, path: Path, key: bytes) -> None:
        """Reads what :meth:`save` wrote."""
