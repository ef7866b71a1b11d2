"""A teacher made of a PyTorch network: fit, predict, save and load are the same for all of them."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from omnifed.data.prepared import Prepared
from omnifed.errors import OmniFedError
from omnifed.models.base import Out
from omnifed.progress import Progress
from omnifed.states import StateFile, read_sealed, write_sealed
from omnifed.teachers.base import WEIGHTS
from omnifed.training.spec import TrainSpec

PREPROCESSING = 1
"""Counts up when teachers see images differently, so that every cached map is computed anew."""


class NetworkTeacher:
    """A network that maps images (B, C, H, W) to :class:`Out` with logits at a fourth of the side.

    Args:
        network: the module; its parameters with ``requires_grad`` are fine-tuned.
        feature_channels: channels of its taps.
        train: settings of the fit.
        about: what else decides its output (kind, sizes), part of :attr:`id`.
    """

    def __init__(
        self, network: nn.Module, feature_channels: Mapping[str, int], train: TrainSpec, about: Mapping[str, object]
    ) -> None:
        self.network = network.eval()
        self._channels = dict(feature_channels)
        self._train = train
        self._about = f"{sorted(about.items())} preprocessing {PREPROCESSING}"
        self._id = ""

    @property
    def id(self) -> str:
        """sha256 (hex) over weights and preprocessing."""
        if not self._id:
            digest = hashlib.sha256(self._about.encode())
            for key, value in sorted(self._state().items()):
                digest.update(f"{key} {value.dtype} {value.shape}".encode())
                digest.update(np.ascontiguousarray(value).data)
            self._id = digest.hexdigest()
        return self._id

    @property
    def feature_channels(self) -> Mapping[str, int]:
        """Channels of each tap that :meth:`predict` returns."""
        return self._channels

    def fit(
        self,
        train: Prepared,
        val: Prepared,
        *,
        checkpoint: StateFile | None = None,
        progress: Progress | None = None,
    ) -> dict[str, float]:
        """Fine-tunes on the images of ``train`` that have a mask: 0.2 cross entropy + 0.8 Dice on the teacher's grid.

        Args:
            train: the site's training split.
            val: chooses the best state, the one before the fit among them: a pre-trained teacher that a few images
                would make worse stays as it is.
            checkpoint: where the loop keeps its progress.
            progress: see :data:`omnifed.teachers.base.Progress`.

        Returns:
            ``dice`` and ``dice_before`` (validation, 0..1), ``seconds``, ``steps`` and ``trained_parameters``.
        """
        from omnifed.evaluation.metrics import mean_dice
        from omnifed.evaluation.predict import predict_masks
        from omnifed.training.batches import Batches
        from omnifed.training.loop import fit
        from omnifed.training.objectives import teacher_objective

        started = time.perf_counter()
        before = {key: value.copy() for key, value in self._state().items()}
        start_dice = mean_dice(predict_masks(self.network, val), val)
        result = fit(
            self.network,
            train,
            val,
            self._train,
            teacher_objective(),
            batches=Batches(train, self._train, labelled_only=True),
            checkpoint=checkpoint,
            progress=progress,
        )
        self.network.eval()
        kept = bool(val.has_mask.any()) and start_dice > result.dice
        if kept:
            self.network.load_state_dict({key: torch.from_numpy(value) for key, value in before.items()})
        self._id = ""
        return {
            "dice": start_dice if kept else float(result.dice),
            "dice_before": start_dice,
            "seconds": time.perf_counter() - started,
            "steps": float(result.steps),
            "trained_parameters": float(sum(p.numel() for p in self.network.parameters() if p.requires_grad)),
        }

    def predict(self, x: Tensor) -> Out:
        """Normalised student images (B, C, H, W) to logits (B, classes, h, w) and features, without gradients."""
        with torch.no_grad():
            return self.network(x)

    def save(self, path: Path, key: bytes) -> None:
        """Writes all weights, which have seen patients, encrypted with the site's vault key; atomically, mode 0600."""
        write_sealed(path, self._state(), {"id": self.id}, key, WEIGHTS)

    def load(self, path: Path, key: bytes) -> None:
        """Reads what :meth:`save` wrote.

        Raises:
            OmniFedError: OF104 if the file is absent, OF875 if it was altered or sealed with another key, OF326 if it
                belongs to another teacher.
        """
        state, meta = read_sealed(path, key, WEIGHTS)
        own = self._state()
        wrong = sorted(own.keys() ^ state.keys()) or [k for k in own if own[k].shape != state[k].shape]
        if not wrong:
            self.network.load_state_dict({key: torch.from_numpy(value) for key, value in state.items()})
            self._id = ""
        if wrong or self.id != meta.get("id"):
            raise OmniFedError(
                "OF326",
                "A teacher loads only weights that it saved itself, with the same kind, sizes and classes.",
                seen=f"{path}: {wrong[0] if wrong else 'other settings or preprocessing'}",
                remedy="Teach again with these settings, or use those that the file was made with.",
            )

    def _state(self) -> dict[str, np.ndarray]:
        return {key: value.detach().cpu().numpy().copy() for key, value in self.network.state_dict().items()}


def seeded(seed: int, build: Callable[[], nn.Module]) -> nn.Module:
    """Builds a network with weights from ``seed``; the global random state is given back as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()
