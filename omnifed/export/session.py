"""Runs an exported model with ONNX Runtime or OpenVINO. Part of the base install: needs no torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from pydantic import ValidationError

from omnifed.devices.engines import (
    has_openvino,
    openvino_ends,
    openvino_model,
    openvino_request,
    openvino_types,
    ort_session,
)
from omnifed.devices.measurement import Engine
from omnifed.errors import OmniFedError
from omnifed.export.card import INPUT, KEY, OUTPUT, ExportCard
from omnifed.export.limits import check_size, refuse_strange
from omnifed.export.seal import check_seal
from omnifed.export.wire import damaged, metadata, refuse_external_data

NEWEST = max(get_args(ExportCard.model_fields["format"].annotation))
"""Newest format of a card that this version reads."""


class Session:
    """A loaded model.

    Args:
        model: content of the ONNX file; nothing else is read.
        threads: threads of one run; 0 leaves it to the engine.
        engine: ``ort``, ``openvino``, or ``auto``: what the model's card names if that is installed, else ONNX Runtime.

    Attributes:
        card: the model's metadata.
        sha256: hex digest of the file.
        engine: what runs it.
        warnings: what a user should know of how it runs here; empty where it runs as it was exported.

    Raises:
        OmniFedError: OF602 if it does not load, OF603 if it refers to other files, OF604 if metadata are missing or do
            not fit the graph, OF607 if a newer version wrote it, OF616 if it was changed since its export, OF702 if the
            named engine is not installed, OF874 if it holds what no student needs.
    """

    def __init__(self, model: bytes, *, threads: int = 0, engine: Literal["auto", "ort", "openvino"] = "auto") -> None:
        refuse_external_data(model)
        refuse_strange(model)
        check_seal(model)
        self.sha256 = hashlib.sha256(model).hexdigest()
        text = metadata(model).get(KEY)
        card = None if text is None else read_card(text)
        if engine == "auto":
            engine = "openvino" if card and card.engine == "openvino" and has_openvino() else "ort"
        self.engine: Engine = engine
        loaded = _Ort(model, threads) if engine == "ort" else _OpenVino(model, threads)
        if card is None:  # known only now: what no engine loads is damaged, not without metadata
            raise unfit("no metadata")
        self.card = card
        fixed = _check_ends(self.card, loaded)
        self.warnings = _warnings(self.card, engine)
        self._infer = loaded.prepared(self.card)
        self._one_by_one = fixed or engine == "openvino"

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
        images = np.ascontiguousarray(batch, np.float32)
        if not self._one_by_one:
            return self._infer(images)
        out = np.empty((len(images), self.classes, *self.card.image_size), np.float32)
        for i in range(len(images)):
            out[i] = self._infer(images[i : i + 1])[0]
        return out


class _Ort:
    """ONNX Runtime: takes any batch that the graph takes."""

    def __init__(self, model: bytes, threads: int) -> None:
        self.session = ort_session(model, threads)
        self.inputs = [(part.name, list(part.shape)) for part in self.session.get_inputs()]
        self.outputs = [(part.name, list(part.shape)) for part in self.session.get_outputs()]

    def prepared(self, card: ExportCard) -> Callable[[np.ndarray], np.ndarray]:
        return lambda images: np.asarray(self.session.run([OUTPUT], {INPUT: images})[0])


class _OpenVino:
    """OpenVINO: one image at a time, as it is fastest and as it was measured where all shapes are known."""

    def __init__(self, model: bytes, threads: int) -> None:
        self.network, self.threads = openvino_model(model), threads
        self.inputs, self.outputs = self._ends(self.network.inputs), self._ends(self.network.outputs)

    def _ends(self, ends: Any) -> list[tuple[str, list[Any]]]:
        shapes = openvino_ends(ends)
        return [(end.get_any_name(), shape) for end, (shape, _) in zip(ends, shapes, strict=True)]

    def prepared(self, card: ExportCard) -> Callable[[np.ndarray], np.ndarray]:
        shape = (1, card.channels, *card.image_size)
        request = openvino_request(self.network, shape, self.threads, card.precision)
        return lambda image: next(iter(request.infer([image], share_inputs=True).values()))


def load(path: Path, *, threads: int = 0, engine: Literal["auto", "ort", "openvino"] = "auto") -> Session:
    """Reads an exported model.

    Args:
        path: the ONNX file.
        threads: threads of one run; 0 leaves it to the engine.
        engine: see :class:`Session`.

    Raises:
        OmniFedError: OF602 if it cannot be read or loaded; the others as :class:`Session`.
    """
    return Session(read_model(path), threads=threads, engine=engine)


def read_model(path: Path) -> bytes:
    """Content of an exported model's file, not yet looked at.

    Args:
        path: the ONNX file.

    Raises:
        OmniFedError: OF602 if it cannot be read, is no file, or too large to be a model.
    """
    try:
        check_size(path.stat().st_size)
        if not path.is_file():
            raise damaged(f"{path}: no regular file")
        return path.read_bytes()
    except OSError as error:
        raise damaged(f"{path}: {error.strerror or error}") from None


def read_card(text: str) -> ExportCard:
    """The card of a model.

    Args:
        text: JSON under :data:`~omnifed.export.card.KEY`.

    Raises:
        OmniFedError: OF604 if it is wrong, OF607 if a newer version wrote it.
    """
    try:
        values = json.loads(text)
        number = values.get("format") if isinstance(values, dict) else None
        if isinstance(number, int) and number > NEWEST:
            raise OmniFedError(
                "OF607",
                "A model can be read by the version of OmniFed that wrote it, and by later ones.",
                seen=f"metadata of format {number}, written by OmniFed {str(values.get('omnifed'))[:40]}; this version "
                f"reads up to {NEWEST}",
                remedy="Install that version of OmniFed or a later one, or export the student with this one.",
            )
        return ExportCard.model_validate_json(text)
    except ValidationError as error:
        raise unfit("; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())) from None
    except (ValueError, RecursionError) as error:
        raise unfit(f"metadata are no JSON: {error}") from None


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


def _check_ends(card: ExportCard, loaded: _Ort | _OpenVino) -> bool:
    """Whether the graph takes one image at a time; OF604 if its ends are not what the card says."""
    names = [name for name, _ in (*loaded.inputs, *loaded.outputs)]
    if names != [INPUT, OUTPUT]:
        raise unfit(f"inputs and outputs {names}")
    image, logits = loaded.inputs[0][1], loaded.outputs[0][1]
    fixed = isinstance(image[0], int)
    if image[1:] != [card.channels, *card.image_size] or (fixed and image[0] != 1):
        raise unfit(f"input {image}")
    if logits[1] != len(card.labels):
        raise unfit(f"output {logits} for {len(card.labels)} labels")
    return fixed


def _warnings(card: ExportCard, engine: Engine) -> tuple[str, ...]:
    if card.precision != "bf16" or (engine == "openvino" and "BF16" in openvino_types()):
        return ()
    lacking = "ONNX Runtime lacks on CPUs" if engine == "ort" else "this processor lacks"
    return (f"the model was exported for bfloat16, which {lacking}: it computes in float32, slower",)
