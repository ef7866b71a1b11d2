"""Which precision and engine is fastest here within the loss that is allowed: measured, then a pure choice."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from omnifed.config import Frozen
from omnifed.data.prepared import Prepared
from omnifed.devices.bench import bench
from omnifed.devices.engines import has_openvino, openvino, openvino_types
from omnifed.devices.measurement import MOST_VARIATION, Engine, Measurement
from omnifed.errors import OmniFedError
from omnifed.evaluation.metrics import dice_by_case
from omnifed.evaluation.statistics import paired_difference
from omnifed.export.card import Precision
from omnifed.export.session import Session

NOISE = 0.05
"""Difference of two latencies that is none, relative; what a measurement varied by counts where it is more, up to
what makes it unbelievable: on a busy machine the fastest must still be chosen."""
ORDER: tuple[tuple[Precision, Engine], ...] = (
    ("fp32", "ort"),
    ("fp32", "openvino"),
    ("bf16", "openvino"),
    ("int8", "ort"),
    ("int8", "openvino"),
)
"""From the simplest to the least simple; ONNX Runtime has no bfloat16 on CPUs."""
Variant = tuple[Precision, Engine]
Measure = Callable[[bytes, Engine, Precision], Measurement]


class Row(Frozen):
    """One precision in one engine, on this device and on the site's cases.

    Attributes:
        precision, engine: what was measured.
        p50_ms, p95_ms: wall time of one image.
        variation: of the measurement, see :class:`~omnifed.devices.measurement.Measurement`.
        peak_mib: peak memory of the measuring process.
        bytes: size of the file.
        max_delta: largest difference of a logit from float32 in ONNX Runtime.
        agreement: Dice against the mask of float32, mean over cases and classes, 0..1.
        dice: Dice against the site's masks, 0..1; None where it has none.
        loss: Dice points (0..100) lost to float32, paired by case; without masks 100 (1 - agreement).
        loss_low, loss_high: its 95 % interval over patients; None below two patients.
    """

    precision: Precision
    engine: Engine
    p50_ms: float
    p95_ms: float
    variation: float
    peak_mib: float
    bytes: int
    max_delta: float
    agreement: float
    dice: float | None
    loss: float
    loss_low: float | None
    loss_high: float | None

    @property
    def variant(self) -> Variant:
        """Precision and engine."""
        return self.precision, self.engine


def variants(precision: Precision | Literal["auto"], engine: Engine | Literal["auto"]) -> tuple[Variant, ...]:
    """What is to be measured: what was asked for and works here, and float32 beside it.

    Args:
        precision: ``auto`` is all.
        engine: ``auto`` is both, where OpenVINO is installed.

    Raises:
        OmniFedError: OF608 if bfloat16 was asked for where nothing computes it, OF702 if OpenVINO was and is absent.
    """
    if engine == "openvino":
        openvino()
    engines = [name for name in ("ort", "openvino") if engine in (name, "auto")]
    if not has_openvino():
        engines = [name for name in engines if name == "ort"]
    missing = _no_bfloat16(engines)
    if precision == "bf16" and missing:
        raise OmniFedError(
            "OF608",
            "bfloat16 needs OpenVINO and a processor with its instructions (AVX-512 BF16, AMX or Arm's BF16).",
            seen=missing,
            remedy="Use --precision int8 or fp32, or --precision auto: it measures what works here.",
        )
    wanted = {"fp32", precision} if precision != "auto" else {"fp32", "bf16", "int8"}
    if missing:
        wanted.discard("bf16")
    return tuple(one for one in ORDER if one[0] in wanted and one[1] in engines)


def _no_bfloat16(engines: Sequence[str]) -> str:
    """Why nothing computes in bfloat16 here; "" if something does."""
    if "openvino" not in engines:
        return "ONNX Runtime only"
    able = openvino_types()
    return "" if "BF16" in able else f"this processor's types are {', '.join(able)}"


def measure(
    models: Mapping[Variant, bytes],
    reference: bytes,
    cases: Prepared,
    *,
    threads: int = 1,
    timing: Measure | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> tuple[Row, ...]:
    """Measures each model on this device and compares it with the reference case by case.

    Args:
        models: content of the ONNX files.
        reference: the float32 model, run by ONNX Runtime.
        cases: n cases, n at least 1, with masks or without.
        threads: of one inference.
        timing: how a model is timed; the default is :func:`omnifed.devices.bench.bench`, in a process of its own.
        progress: told what is measured next.

    Returns:
        A row a model, in the order of :data:`ORDER`.
    """
    timing = timing or (lambda model, engine, precision: _timed(model, engine, precision, threads))
    base = Session(reference, threads=threads, engine="ort")
    before = _predict(base, None, cases)[0]
    rows = []
    for precision, engine in (one for one in ORDER if one in models):
        model = models[precision, engine]
        progress(f"{precision} in {engine}")
        masks, delta = _predict(Session(model, threads=threads, engine=engine), base, cases)
        time = timing(model, engine, precision)
        rows.append(
            Row(
                precision=precision,
                engine=engine,
                p50_ms=time.p50_ms,
                p95_ms=time.p95_ms,
                variation=time.variation,
                peak_mib=time.peak_mib,
                bytes=len(model),
                max_delta=delta,
                **_scores(masks, before, cases),
            )
        )
    return tuple(rows)


def _timed(model: bytes, engine: Engine, precision: Precision, threads: int) -> Measurement:
    return bench(model, engine=engine, precision=precision, threads=threads, accept_variation=True)


def _predict(session: Session, base: Session | None, cases: Prepared) -> tuple[np.ndarray, float]:
    """Masks (n, H, W), and the largest difference of a logit from the base. One case at a time: logits are large."""
    masks, deltas = np.empty(cases.masks.shape, np.uint8), [0.0]
    for i in range(len(cases)):
        image = np.asarray(cases.images[i], np.float32)[None]
        logits = session.logits(image)
        masks[i] = logits[0].argmax(0)
        if base is not None:
            deltas.append(float(np.abs(logits - base.logits(image)).max()))
    return masks, float(np.max(deltas))


def agreement(masks: np.ndarray, before: np.ndarray, cases: Prepared) -> np.ndarray:
    """Dice a case against other masks of the same cases, mean over the classes in either; NaN where there is none.

    Args:
        masks, before: (n, H, W) uint8 label ids.
        cases: the cases.

    Returns:
        (n,) float64.
    """
    truth = replace(cases, masks=before, has_mask=np.ones(len(cases), bool))
    return _mean(dice_by_case(masks, truth))


def _scores(masks: np.ndarray, before: np.ndarray, cases: Prepared) -> dict[str, float | None]:
    same = agreement(masks, before, cases)
    alike = float(np.nanmean(same)) if np.isfinite(same).any() else 1.0
    now, then = dice_by_case(masks, cases), dice_by_case(before, cases)
    # A class that only one of the two found where there is none: the other was right.
    now, then = (np.where(np.isnan(a) & ~np.isnan(b), 1.0, a) for a, b in ((now, then), (then, now)))
    if np.isfinite(now).any():
        lost = paired_difference(_mean(then), _mean(now), cases.patients)
        dice: float | None = float(np.nanmean(_mean(now)))
    else:
        lost, dice = paired_difference(np.ones(len(cases)), same, cases.patients), None
    loss = 0.0 if np.isnan(lost.mean) else 100 * lost.mean
    low, high = (None if np.isnan(bound) else 100 * bound for bound in (lost.low, lost.high))
    return {"agreement": alike, "dice": dice, "loss": loss, "loss_low": low, "loss_high": high}


def _mean(dice: np.ndarray) -> np.ndarray:
    """(n, classes - 1) to (n,): the mean over the classes that count; NaN where none does."""
    counted = np.isfinite(dice)
    with np.errstate(invalid="ignore"):
        return np.where(counted, dice, 0.0).sum(1) / counted.sum(1)


def choose(rows: Sequence[Row], max_loss: float, parity: float) -> Row | None:
    """The fastest row within the allowed loss; of rows within the noise of it the simplest.

    Args:
        rows: those that may be published.
        max_loss: Dice points that a lower precision may lose.
        parity: largest difference of a logit that a float32 row may have.

    Returns:
        None if no row may be published.
    """
    fit = [row for row in rows if is_safe(row, max_loss, parity)]
    if not fit:
        return None
    best = min(fit, key=lambda row: (row.p50_ms, ORDER.index(row.variant)))
    near = [row for row in fit if row.p50_ms <= best.p50_ms * (1 + _noise(row, best))]
    return min(near, key=lambda row: ORDER.index(row.variant))


def _noise(a: Row, b: Row) -> float:
    return max(NOISE, min(MOST_VARIATION, max(a.variation, b.variation)))


def is_safe(row: Row, max_loss: float, parity: float) -> bool:
    """Whether a row may be published: float32 by its logits, the others by their Dice."""
    return row.max_delta <= parity if row.precision == "fp32" else row.loss <= max_loss
