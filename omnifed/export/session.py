"""Runs an exported model with ONNX Runtime. Part of the base install: needs no torch."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from pydantic import ValidationError

from omnifed.errors import OmniFedError
from omnifed.export.card import INPUT, KEY, OUTPUT, ExportCard
from omnifed.export.wire import damaged, refuse_external_data


class Session:
    """A loaded model.

    Args:
        model: content of the ONNX file; nothing else is read.
        threads: threads of one run; 0 leaves it to ONNX Runtime.

    Attributes:
        card: the model's metadata.
        sha256: hex digest of the file.

    Raises:
        OmniFedError: OF602 if it does not load, OF603 if it refers to other files, OF604 if metadata are missing or do
            not fit the graph.
    """

    def __init__(self, model: bytes, *, threads: int = 0) -> None:
        refuse_external_data(model)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = threads
        try:
            self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the runtime's own exceptions share no base class
            raise damaged(f"{type(error).__name__}: {str(error)[:300]}") from None
        self.sha256 = hashlib.sha256(model).hexdigest()
        self.card = _card(self._session)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an input image."""
        return (self.card.channels, *self.card.image_size)

    @property
    def classes(self) -> int:
        """Classes, background included."""
        return len(self.card.labels)

    def logits(self, batch: np.ndarray) -> np.ndarray:
        """Segments a batch.

        Args:
            batch: (B, channels, H, W), B at least 1, normalised as :attr:`card` says.

        Returns:
            (B, classes, H, W) float32, before softmax.

        Raises:
            OmniFedError: OF605 for another shape.
        """
        if batch.ndim != 4 or len(batch) < 1 or batch.shape[1:] != self.shape:
            raise wrong_batch(batch.shape, self.shape)
        out = self._session.run([OUTPUT], {INPUT: np.ascontiguousarray(batch, np.float32)})
        return np.asarray(out[0])


def load(path: Path, *, threads: int = 0) -> Session:
    """Reads an exported model.

    Args:
        path: the ONNX file.
        threads: threads of one run; 0 leaves it to ONNX Runtime.

    Raises:
        OmniFedError: OF602 if it cannot be read or loaded, OF603 and OF604 as :class:`Session`.
    """
    try:
        model = path.read_bytes()
    except OSError as error:
        raise damaged(f"{path}: {error.strerror or error}") from None
    return Session(model, threads=threads)


def wrong_batch(seen: tuple[int, ...], shape: tuple[int, ...]) -> OmniFedError:
    """OF605 with the shape that was seen and that of one image."""
    return OmniFedError(
        "OF605",
        "A batch for an exported model has at least one image of the model's channels, height and width.",
        seen=f"{'x'.join(map(str, seen))}, expected B x {' x '.join(map(str, shape))}",
        remedy="Prepare the images as the model's metadata say.",
    )


def unfit(seen: str) -> OmniFedError:
    """OF604 with what was seen."""
    return OmniFedError(
        "OF604",
        "An exported model must carry OmniFed's metadata, and its graph must fit their channels, size and labels.",
        seen=seen,
        remedy="Export the student with OmniFed again.",
    )


def _card(session: Any) -> ExportCard:
    text = session.get_modelmeta().custom_metadata_map.get(KEY)
    if text is None:
        raise unfit("no metadata")
    try:
        card = ExportCard.model_validate_json(text)
    except ValidationError as error:
        raise unfit("; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())) from None
    inputs, outputs = session.get_inputs(), session.get_outputs()
    names = [part.name for part in (*inputs, *outputs)]
    if names != [INPUT, OUTPUT]:
        raise unfit(f"inputs and outputs {names}")
    if inputs[0].shape[1:] != [card.channels, *card.image_size] or isinstance(inputs[0].shape[0], int):
        raise unfit(f"input {inputs[0].shape}")
    if outputs[0].shape[1] != len(card.labels):
        raise unfit(f"output {outputs[0].shape} for {len(card.labels)} labels")
    return card
