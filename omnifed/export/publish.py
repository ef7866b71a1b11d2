"""From a trained student to the file that a site uses: measured, chosen, written with its figures beside it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import Field

from omnifed.config import Frozen
from omnifed.data.prepare import prepare
from omnifed.data.prepared import Prepared
from omnifed.data.site import SiteConfig
from omnifed.devices.machine import describe_machine
from omnifed.devices.measurement import Engine
from omnifed.errors import OmniFedError
from omnifed.export.card import KEY, ExportCard, Precision
from omnifed.export.cases import Cases, Split, cases_of, pick
from omnifed.export.choose import Measure, Row, Variant, agreement, choose, is_safe, measure, variants
from omnifed.export.graph import upsample_by_convolution, with_card
from omnifed.export.onnx import TOLERANCE, Batch, Parity, serialise
from omnifed.export.quantise import CALIBRATIONS, evenly, quantise
from omnifed.export.seal import sealed
from omnifed.export.session import Session, read_card
from omnifed.export.signed import write_model
from omnifed.export.source import Source
from omnifed.export.wire import metadata
from omnifed.files import not_written, write_json
from omnifed.models.registry import build_student
from omnifed.models.student import Student
from omnifed.models.weights import load_state
from omnifed.trust.identity import SiteIdentity

MODEL, FIGURES, PLOT = "model.onnx", "model.json", "export.svg"
TRIAL_IMAGES = 16
"""Training images on which calibrations are compared: cases that are scored later must not choose."""
Progress = Callable[[str], None]


class ExportSettings(Frozen):
    """What is asked for.

    Attributes:
        precision: ``auto`` measures all and keeps the fastest within ``max_loss``.
        engine: what the model is for; ``auto`` measures what is installed.
        batch: of the graph.
        max_loss: Dice points (0..100) that a lower precision may lose to float32.
        threads: of one inference while measuring.
        overwrite: replace what is in the folder.
    """

    precision: Precision | Literal["auto"] = "fp32"
    engine: Engine | Literal["auto"] = "auto"
    batch: Batch = "dynamic"
    max_loss: float = Field(0.5, ge=0, le=100)
    threads: int = Field(1, ge=1)
    overwrite: bool = False


class Published(Frozen):
    """The content of ``model.json``. Names no site and no path.

    Attributes:
        sha256, bytes: of ``model.onnx``.
        card: its metadata.
        machine: where it was measured.
        threads: of one inference.
        split: where the cases are from.
        cases: number of cases compared; ``with_mask``: of these with the site's mask.
        samples, max_delta, peak, pixel_agreement: of the float32 file against the student.
        tolerance: largest difference of a logit that was allowed.
        max_loss: Dice points that were allowed.
        rows: all that was measured.
        chosen: precision and engine of ``model.onnx``.
    """

    sha256: str
    bytes: int
    card: ExportCard
    machine: str
    threads: int
    split: Split
    cases: int
    with_mask: int
    samples: int
    max_delta: float
    peak: float
    pixel_agreement: float
    tolerance: float
    max_loss: float
    rows: tuple[Row, ...]
    chosen: tuple[Precision, Engine]


def publish(
    source: Source,
    target: Path,
    settings: ExportSettings,
    *,
    timing: Measure | None = None,
    progress: Progress = lambda text: None,
) -> Published:
    """Exports a student, measures what was asked for, and writes the model and its figures.

    Args:
        source: the student and its site.
        target: folder of ``model.onnx``, ``model.json``, ``model.onnx.manifest.json`` where the site has an identity,
            and ``export.svg`` where matplotlib is installed.
        settings: what is asked for.
        timing: how a model is timed, see :func:`omnifed.export.choose.measure`.
        progress: told what is done next.

    Raises:
        OmniFedError: OF609 if the named precision loses more than allowed, OF613 if the target holds a model already,
            OF614 if the weights do not fit the student and the site, OF534 without an image, OF601 beyond the
            tolerance; OF103, OF606, OF608, OF702; OF801 or OF802 for the site's identity. Nothing is written then.
    """
    wanted = variants(settings.precision, settings.engine)
    signer = SiteIdentity.load(source.identity) if source.identity else None
    with _writable(target, settings.overwrite), tempfile.TemporaryDirectory() as spare:
        progress("images")
        data = prepare(source.site, _cache(source, Path(spare)), image_size=source.image_size)
        student, cases = _student(source, data.config), cases_of(data)
        shape = (int(cases.scored.images.shape[2]), int(cases.scored.images.shape[3]))
        config = data.config.model_copy(update={"image_size": shape})
        progress("fp32 against the student")
        samples = torch.from_numpy(np.asarray(cases.scored.images, np.float32))
        fp32, parity = serialise(student, config, samples, batch=settings.batch)
        models = _models(fp32, wanted, cases.calibration, progress)
        rows = measure(models, fp32, cases.scored, threads=settings.threads, timing=timing, progress=progress)
        row = _chosen(rows, settings, parity)
        published = _published(models[row.variant], row, rows, settings, parity, cases)
        write_model(target / MODEL, models[row.variant], signer, source.origin)
        write_json(target / FIGURES, json.loads(published.model_dump_json()))
    return published


@contextlib.contextmanager
def _writable(target: Path, overwrite: bool) -> Iterator[None]:
    """Finds out before minutes of measuring whether the folder takes files; leaves no empty folder of a refusal."""
    if (target / MODEL).exists() and not overwrite:
        raise OmniFedError(
            "OF613",
            "A published model is not overwritten by accident.",
            seen=str(target / MODEL),
            remedy="Use --overwrite, or another --output.",
        )
    made = not target.exists()
    try:
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=target):
            pass
    except OSError as error:
        raise not_written(target, error) from None
    try:
        yield
    except BaseException:
        if made:
            with contextlib.suppress(OSError):
                target.rmdir()
        raise


def _cache(source: Source, spare: Path) -> Path:
    """Where the prepared images lie or go: not into a run or a state folder that may only be read."""
    cache = source.cache
    return spare / "prepared" if cache is None or (cache.exists() and not os.access(cache, os.W_OK)) else cache


def _student(source: Source, config: SiteConfig) -> Student:
    student = build_student(source.student, config.spec)
    want, got = student.state_dict(), source.state
    # The counter of a batch norm's batches is no weight; other tools leave it out.
    absent = [key for key in want if key not in got and not key.endswith("num_batches_tracked")]
    try:
        if absent:
            raise OmniFedError("OF318", "", seen=f"{absent[0]} is missing ({len(absent)} in all)")
        load_state(student, got)
    except OmniFedError as error:
        spec = config.spec
        raise OmniFedError(
            "OF614",
            "The weights must be those of the student and of a site with as many channels and labels.",
            seen=f"{error.seen}; student {source.student.family} alpha {source.student.alpha:g} "
            f"beta {source.student.beta:g}, site with {spec.channels} channels and {spec.classes} classes",
            remedy="Name the student that was trained (--student) and the folder of its site (--data).",
        ) from None
    return student


def _models(fp32: bytes, wanted: tuple[Variant, ...], train: Prepared, progress: Progress) -> dict[Variant, bytes]:
    """The file of each variant: graph and arithmetic are the engine's, the card says both."""
    card = read_card(metadata(fp32)[KEY])
    graphs: dict[Engine, bytes] = {"ort": fp32, "openvino": upsample_by_convolution(fp32)}
    models = {}
    for precision, engine in wanted:
        model = fp32 if precision == "bf16" else graphs[engine]
        if precision == "int8":
            model = _int8(model, fp32, engine, train, progress)
        own = card.model_copy(update={"precision": precision, "engine": engine})
        models[precision, engine] = sealed(with_card(model, own))
    return models


def _int8(graph: bytes, fp32: bytes, engine: Engine, train: Prepared, progress: Progress) -> bytes:
    """Of the calibrations the one whose masks, in this engine, are closest to float32's on training images."""
    few = pick(train, evenly(len(train), TRIAL_IMAGES))
    before = _masks(fp32, "ort", few)
    best, score = b"", -1.0
    for calibration in CALIBRATIONS:
        progress(f"int8 for {engine}, {calibration}")
        try:
            model = quantise(graph, train.images, calibration)
        except OmniFedError:
            if not best:
                raise
            continue  # numpy makes no histogram of a map that hardly varies
        same = agreement(_masks(model, engine, few), before, few)
        alike = float(np.nanmean(same)) if np.isfinite(same).any() else 1.0
        if alike > score:
            best, score = model, alike
    return best


def _masks(model: bytes, engine: Engine, cases: Prepared) -> np.ndarray:
    session = Session(model, threads=1, engine=engine)
    masks = np.empty(cases.masks.shape, np.uint8)
    for i in range(len(cases)):
        masks[i] = session.logits(np.asarray(cases.images[i], np.float32)[None])[0].argmax(0)
    return masks


def _chosen(rows: tuple[Row, ...], settings: ExportSettings, parity: Parity) -> Row:
    bound = TOLERANCE * max(1.0, parity.peak)
    asked = [row for row in rows if settings.precision in ("auto", row.precision)]
    row = choose(asked, settings.max_loss, bound)
    if row:
        return row
    seen = "; ".join(
        f"{row.precision} in {row.engine}: "
        + (f"max |delta logit| {row.max_delta:.3g} of {bound:.3g}" if row.precision == "fp32" else _lost(row))
        for row in asked
        if not is_safe(row, settings.max_loss, bound)
    )
    raise OmniFedError(
        "OF609",
        "A model may be published only if it loses no more Dice to float32 than is allowed.",
        seen=f"{seen}; allowed {settings.max_loss:g} points",
        remedy="Use --precision auto, which keeps the fastest within the loss, or allow more with --max-loss. Nothing "
        "was written.",
    )


def _lost(row: Row) -> str:
    interval = "" if row.loss_low is None else f" [{row.loss_low:.2f}, {row.loss_high:.2f}]"
    return f"{row.loss:.2f}{interval} Dice points lost"


def _published(
    model: bytes, row: Row, rows: tuple[Row, ...], settings: ExportSettings, parity: Parity, cases: Cases
) -> Published:
    return Published(
        sha256=hashlib.sha256(model).hexdigest(),
        bytes=len(model),
        card=read_card(metadata(model)[KEY]),
        machine=describe_machine().text,
        threads=settings.threads,
        split=cases.split,
        cases=len(cases.scored),
        with_mask=int(np.sum(cases.scored.has_mask)),
        samples=parity.samples,
        max_delta=parity.max_delta,
        peak=parity.peak,
        pixel_agreement=parity.agreement,
        tolerance=TOLERANCE * max(1.0, parity.peak),
        max_loss=settings.max_loss,
        rows=rows,
        chosen=row.variant,
    )
