"""The teacher ``onnx``: any exported segmentation model. It is not fine-tuned and has no features to teach from."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from omnifed.data.prepared import Prepared
from omnifed.errors import OmniFedError
from omnifed.evaluation.metrics import mean_dice
from omnifed.evaluation.predict import predict_masks
from omnifed.export.session import Session, read_model
from omnifed.models.base import Out, SiteSpec
from omnifed.progress import Progress
from omnifed.states import StateFile, read_sealed, write_sealed
from omnifed.teachers.base import WEIGHTS
from omnifed.teachers.checkpoints import require_file, require_hash
from omnifed.teachers.network import PREPROCESSING
from omnifed.teachers.spec import TeacherSpec


class OnnxTeacher:
    """Predicts by onnxruntime. OmniKD skips the terms that need features, and says so.

    Args:
        spec: with the path of the model, and its sha256 where it shall be checked.
        site: channels and classes that the model must have.

    Raises:
        OmniFedError: OF320 or OF321 for the file; OF327 if the model does not fit the site; what the session raises
            for a model that was not exported for it.
    """

    def __init__(self, spec: TeacherSpec, site: SiteSpec) -> None:
        path = Path(spec.checkpoint)
        require_file(path, spec.sha256.lower())
        model = read_model(path)  # once: what was hashed is what is loaded
        require_hash(path, hashlib.sha256(model).hexdigest(), spec.sha256.lower())
        self._session = Session(model)
        found, wanted = (self._session.shape[0], self._session.classes), (site.channels, site.classes)
        if found != wanted:
            raise OmniFedError(
                "OF327",
                "An exported teacher must have the site's channels and classes.",
                seen=f"{path}: {found[0]} channels and {found[1]} classes; the site has {wanted[0]} and {wanted[1]}",
                remedy="Export a model that was trained with the site's labels, or choose another teacher.",
            )
        digest = hashlib.sha256(f"onnx preprocessing {PREPROCESSING}".encode())
        digest.update(model)
        self._id = digest.hexdigest()

    @property
    def id(self) -> str:
        """sha256 (hex) over the model file and preprocessing."""
        return self._id

    @property
    def feature_channels(self) -> Mapping[str, int]:
        """Empty: an exported model offers its logits only."""
        return {}

    def fit(
        self,
        train: Prepared,
        val: Prepared,
        *,
        checkpoint: StateFile | None = None,
        progress: Progress | None = None,
    ) -> dict[str, float]:
        """Trains nothing; validates.

        Returns:
            ``dice`` (validation, 0..1) and ``seconds``.
        """
        started = time.perf_counter()
        dice = mean_dice(predict_masks(self.predict, val), val) if val.has_mask.any() else float("nan")
        if progress is not None:
            progress(1, 1, "an exported model is not fine-tuned")
        return {"dice": dice, "seconds": time.perf_counter() - started, "steps": 0.0, "trained_parameters": 0.0}

    def predict(self, x: Tensor) -> Out:
        """Normalised student images (B, C, H, W) to logits (B, classes, h/4, w/4), each the mean of 4 x 4 pixels.

        Images of another size than the model's (h, w) are resized to it. Each is predicted by itself: a graph that
        looks at the other images of a batch would carry one patient into the maps of another one.
        """
        size = self._session.shape[1:]
        if tuple(x.shape[-2:]) != size:
            x = functional.interpolate(x, size, mode="bilinear", antialias=x.shape[-2] > size[0])
        logits = np.concatenate([self._session.logits(image[None]) for image in x.numpy()])
        return Out(logits=functional.avg_pool2d(torch.from_numpy(logits), 4))

    def save(self, path: Path, key: bytes) -> None:
        """Writes the model's hash: the model itself stays where it is."""
        write_sealed(path, {"onnx": np.zeros(1, np.uint8)}, {"id": self._id}, key, WEIGHTS)

    def load(self, path: Path, key: bytes) -> None:
        """Checks that the model is the one that :meth:`save` was called for.

        Raises:
            OmniFedError: OF104 if the file is absent, OF875 if it was altered, OF326 if the model has changed since.
        """
        if read_sealed(path, key, WEIGHTS)[1].get("id") != self._id:
            raise OmniFedError(
                "OF326",
                "A teacher loads only weights that it saved itself, with the same kind, sizes and classes.",
                seen=f"{path}: another model file",
                remedy="Teach again with this model, or put the former file back.",
            )
