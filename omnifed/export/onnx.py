"""A student to one ONNX file: dynamic batch, metadata inside, published only after it computes the same."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import omnifed
from omnifed.data.site import SiteConfig
from omnifed.errors import OmniFedError
from omnifed.export.card import INPUT, KEY, OPSET, OUTPUT, ExportCard
from omnifed.export.session import Session, unfit, wrong_batch
from omnifed.files import write_atomic

CHUNK = 8
"""Images compared in one run."""


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
    student: nn.Module, config: SiteConfig, path: Path, samples: Tensor, *, tolerance: float = 1e-4
) -> ExportReport:
    """Exports a student and compares the file with it in ONNX Runtime.

    Args:
        student: the network; it is not changed.
        config: the site whose images it segments.
        path: where the file is published, atomically; nothing is written if the comparison fails.
        samples: (n, channels, H, W), n at least 1, normalised images, best real ones.
        tolerance: largest allowed difference of a logit, relative to the largest logit where that is above 1.

    Raises:
        OmniFedError: OF601 beyond the tolerance, OF604 if the student does not fit the site, OF605 for other samples,
            OF606 if torch cannot export the network.
    """
    start = time.monotonic()
    shape = (config.channels, *config.image_size)
    if samples.ndim != 4 or len(samples) < 1 or tuple(samples.shape[1:]) != shape:
        raise wrong_batch(tuple(samples.shape), shape)
    network = _Logits(copy.deepcopy(student)).cpu().float().eval()
    samples = samples.detach().cpu().float()
    card = _card(student, config)
    model = _serialised(network, card, shape)
    session = Session(model)
    max_delta, peak, agreement = _compare(network, session, samples)
    if not max_delta <= tolerance * max(1.0, peak):
        raise OmniFedError(
            "OF601",
            "An exported model must compute what the student computes.",
            seen=f"max |delta logit| {max_delta:.3g} at logits up to {peak:.3g}, {agreement:.4%} of pixels agree, "
            f"tolerance {tolerance:.3g}",
            remedy="Check the student for NaN or exploding weights; nothing was published.",
        )
    write_atomic(path, model)
    return ExportReport(
        path=path,
        bytes=len(model),
        sha256=session.sha256,
        opset=OPSET,
        samples=len(samples),
        max_delta=max_delta,
        peak=peak,
        agreement=agreement,
        seconds=time.monotonic() - start,
    )


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


def _serialised(network: nn.Module, card: ExportCard, shape: tuple[int, ...]) -> bytes:
    try:
        with _silence():
            program = torch.onnx.export(
                network,
                (torch.zeros(2, *shape),),
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=65535)},),
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
    _strip(model.graph)
    for key, value in ((KEY, card.model_dump_json()), ("notice", card.notice)):
        model.metadata_props.add(key=key, value=value)
    return model.SerializeToString()


def _strip(graph: Any) -> None:
    """Removes the exporter's notes: they hold stack traces with paths of this machine."""
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""


def _compare(network: nn.Module, session: Session, samples: Tensor) -> tuple[float, float, float]:
    """Largest difference, largest logit, share of equal labels. The first image goes alone: the batch is dynamic."""
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
    return float(np.max(deltas)), float(np.max(peaks)), float(np.sum(same)) / len(samples)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """The exporter's progress, warnings and log lines are none of the user's business."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
