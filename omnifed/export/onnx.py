"""A student to one ONNX file: norms folded, metadata inside, published only after it computes the same."""

from __future__ import annotations

import copy
import hashlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

import omnifed
from omnifed.data.site import SiteConfig
from omnifed.errors import OmniFedError
from omnifed.export.card import INPUT, OPSET, OUTPUT, ExportCard
from omnifed.export.graph import set_card, strip
from omnifed.export.quiet import quiet_exporters
from omnifed.export.seal import sealed
from omnifed.export.session import Session, unfit, wrong_batch
from omnifed.files import write_atomic

Batch = Literal["dynamic", "static"]
TOLERANCE = 1e-4
"""Largest allowed difference of a logit, relative to the largest logit where that is above 1."""
CHUNK = 8
"""Images compared in one run."""


@dataclass(frozen=True)
class Parity:
    """How well a file agrees with the student.

    Attributes:
        samples: images compared.
        max_delta: largest absolute difference of a logit.
        peak: largest absolute logit of the student.
        agreement: share of pixels with the same label, 0..1.
    """

    samples: int
    max_delta: float
    peak: float
    agreement: float


@dataclass(frozen=True)
class ExportReport:
    """What was published and how well it agrees with the student.

    Attributes:
        path: the ONNX file.
        bytes: its size.
        sha256: hex digest of its content.
        opset: ONNX operator set.
        samples: images compared.
        max_delta: largest absolute difference of a logit.
        peak: largest absolute logit of the student.
        agreement: share of pixels with the same label, 0..1.
        seconds: wall time of export and comparison.
    """

    path: Path
    bytes: int
    sha256: str
    opset: int
    samples: int
    max_delta: float
    peak: float
    agreement: float
    seconds: float


class _Logits(nn.Module):
    """The student without its taps."""

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.student = student

    def forward(self, image: Tensor) -> Tensor:
        return self.student(image).logits


def export_student(
    student: nn.Module,
    config: SiteConfig,
    path: Path,
    samples: Tensor,
    *,
    tolerance: float = TOLERANCE,
    batch: Batch = "dynamic",
) -> ExportReport:
    """Exports a student in float32 and compares the file with it in ONNX Runtime.

    Args:
        student: the network; it is not changed.
        config: the site whose images it segments.
        path: where the file is published, atomically; nothing is written if the comparison fails.
        samples: (n, channels, H, W), n at least 1, normalised images, best real ones.
        tolerance: largest allowed difference of a logit, relative to the largest logit where that is above 1.
        batch: ``dynamic``, or ``static`` for one image at a time.

    Raises:
        OmniFedError: as :func:`serialise`.
    """
    start = time.monotonic()
    model, parity = serialise(student, config, samples, tolerance=tolerance, batch=batch)
    model = sealed(model)
    write_atomic(path, model)
    return ExportReport(
        path=path,
        bytes=len(model),
        sha256=hashlib.sha256(model).hexdigest(),
        opset=OPSET,
        **vars(parity),
        seconds=time.monotonic() - start,
    )


def serialise(
    student: nn.Module,
    config: SiteConfig,
    samples: Tensor,
    *,
    tolerance: float = TOLERANCE,
    batch: Batch = "dynamic",
) -> tuple[bytes, Parity]:
    """The content of a student's ONNX file in float32, and how well it agrees with the student.

    Branches that training needs are merged and norms folded into convolutions first, where the student can
    (``folded()``); the exporter folds what follows a convolution anyway.

    Args:
        student, config, samples, tolerance, batch: as :func:`export_student`.

    Raises:
        OmniFedError: OF601 beyond the tolerance, OF604 if the student does not fit the site, OF605 for other samples,
            OF606 if torch cannot export the network.
    """
    shape = (config.channels, *config.image_size)
    if samples.ndim != 4 or len(samples) < 1 or tuple(samples.shape[1:]) != shape:
        raise wrong_batch(tuple(samples.shape), shape)
    network = _Logits(copy.deepcopy(student)).cpu().float().eval()
    samples = samples.detach().cpu().float()
    model = _serialised(_folded(network), _card(student, config), shape, batch)
    parity = _compare(network, Session(model, engine="ort"), samples)
    if not parity.max_delta <= tolerance * max(1.0, parity.peak):
        raise OmniFedError(
            "OF601",
            "An exported model must compute what the student computes.",
            seen=f"max |delta logit| {parity.max_delta:.3g} at logits up to {parity.peak:.3g}, "
            f"{parity.agreement:.4%} of pixels agree, tolerance {tolerance:.3g}",
            remedy="Check the student for NaN or exploding weights; nothing was published.",
        )
    return model, parity


def _folded(network: _Logits) -> _Logits:
    folded = getattr(network.student, "folded", None)
    return _Logits(folded()).eval() if callable(folded) else network


def _card(student: nn.Module, config: SiteConfig) -> ExportCard:
    site: Any = student.site
    if (site.channels, site.classes) != (config.channels, len(config.labels)):
        raise unfit(f"student for {site.channels} channels and {site.classes} classes")
    return ExportCard(
        omnifed=omnifed.__version__,
        student=student.spec,
        modality=config.modality,
        labels=config.labels,
        channels=config.channels,
        image_size=config.image_size,
        normalisation=config.normalisation,
        slice_axis=config.slice_axis,
    )


def _serialised(network: nn.Module, card: ExportCard, shape: tuple[int, ...], batch: Batch) -> bytes:
    dynamic = batch == "dynamic"
    try:
        with quiet_exporters():
            program = torch.onnx.export(
                network,
                # Two images where the batch is dynamic: the exporter takes a side of 1 for a constant.
                (torch.zeros(2 if dynamic else 1, *shape),),
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=65535)},) if dynamic else None,
                input_names=[INPUT],
                output_names=[OUTPUT],
                opset_version=OPSET,
                external_data=False,
                verbose=False,
            )
    except (torch.onnx.OnnxExporterError, ImportError) as error:
        raise OmniFedError(
            "OF606",
            "The installed torch must be able to export the student to ONNX.",
            seen=str(error)[:300],
            remedy="Use the versions of torch, onnx and onnxscript that OmniFed's site extra names.",
        ) from None
    assert program is not None
    model = program.model_proto
    strip(model.graph)
    set_card(model, card)
    return model.SerializeToString()


def _compare(network: nn.Module, session: Session, samples: Tensor) -> Parity:
    """The first image goes alone: the batch may be dynamic."""
    deltas, peaks, same = [], [], []
    for chunk in (samples[:1], *samples[1:].split(CHUNK)):
        if not len(chunk):
            continue
        with torch.no_grad():
            want = network(chunk).numpy()
        got = session.logits(chunk.numpy())
        deltas.append(np.abs(got - want).max())
        peaks.append(np.abs(want).max())
        same.append((got.argmax(1) == want.argmax(1)).mean(dtype=np.float64) * len(chunk))
    # numpy's max keeps NaN: a student with NaN never compares as equal.
    return Parity(len(samples), float(np.max(deltas)), float(np.max(peaks)), float(np.sum(same)) / len(samples))
