"""Latency and memory of every student of one device, from at most ten that were measured there. Needs no torch.

One inference takes, on one device, the sum over its layers' kinds of work (:mod:`omnifed.devices.work`)::

    p50 = a_d dense + a_p pointwise + a_w depthwise + a_l layers,    all a >= 0
    peak = b_0 + b_w weights + b_a activations,                      all b >= 0

fitted by least squares of the relative error. All that is counted grows with width and depth, so a wider and deeper
network is never predicted faster. Multiply-accumulates alone miss the small networks, whose layers cost time of their
own. Ten measurements suffice where a predictor of any network takes thousands (nn-Meter, Zhang et al., MobiSys 2021):
all networks of the family are built from the same few layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

import numpy as np
from pydantic import Field

from omnifed.config import Frozen
from omnifed.devices.fitting import fit_relative
from omnifed.devices.measurement import Engine, Estimate, Evidence, Measurement
from omnifed.devices.work import Work, work
from omnifed.errors import OmniFedError
from omnifed.models import scaling
from omnifed.models.base import SiteSpec
from omnifed.models.spec import StudentSpec

MOST_PROBES = 10
LEAST_PROBES = 5
"""Distinct networks of which a model is fitted: one more than it has coefficients."""
TIME_PATTERN = np.array([21.0, 20.0, 75.0, 0.007])
"""Milliseconds per GMAC of dense, pointwise and depthwise layers, and per layer: one thread of a server CPU (AMD EPYC,
Zen 4), ONNX Runtime. A network's kinds of work grow together, so ten networks leave the split between the kinds loose;
the fit holds it weakly to this split, at whatever speed."""
MEMORY_PATTERN = np.array([56.0, 3.7, 2.0])
"""MiB of the empty process, and per MiB of weights and of activations (the same machine)."""
DESIGN = (
    (0.6, 0.5),
    (1.5, 2.0),
    (0.6, 2.0),
    (1.5, 0.5),
    (1.0, 1.0),
    (1.38, 1.6),
    (0.6, 1.0),
    (1.5, 1.0),
    (1.0, 0.5),
    (1.0, 2.0),
)
"""(alpha, beta) of the networks to measure: the corners, the centre, and between them."""


class FittedNetwork(Frozen):
    """A measured network and what the model says of it.

    Attributes:
        key: architecture key.
        p50_ms: measured.
        predicted_ms: by the model.
        left_out_ms: by the model fitted on all others.
    """

    key: str
    p50_ms: float
    predicted_ms: float
    left_out_ms: float


class LatencyModel(Frozen):
    """What the students of one option set cost on one device.

    Attributes:
        options: the students' options; its alpha and beta mean nothing.
        engine, threads: of an inference.
        size: height and width in pixels of the measured images.
        evidence: of the measurements.
        dense_ms_per_gmac, pointwise_ms_per_gmac, depthwise_ms_per_gmac: time of a billion multiply-accumulates.
        layer_ms: time of a layer whatever its size.
        tail: p95 / p50.
        base_mib: of the process without a model.
        weights_factor, activations_factor: peak memory per MiB of float32 weights and activations.
        networks: what it was fitted on.
        error: mean absolute relative error of p50 on those networks.
        left_out_error: the same, each predicted by a fit on all others.
        memory_error: mean absolute relative error of the peak memory on those networks.
    """

    options: StudentSpec
    engine: Engine
    threads: int
    size: tuple[int, int]
    evidence: Evidence
    dense_ms_per_gmac: float = Field(ge=0)
    pointwise_ms_per_gmac: float = Field(ge=0)
    depthwise_ms_per_gmac: float = Field(ge=0)
    layer_ms: float = Field(ge=0)
    tail: float = Field(ge=1)
    base_mib: float = Field(ge=0)
    weights_factor: float = Field(ge=0)
    activations_factor: float = Field(ge=0)
    networks: tuple[FittedNetwork, ...]
    error: float
    left_out_error: float
    memory_error: float

    def predict(self, student: StudentSpec, site: SiteSpec, size: tuple[int, int]) -> Estimate:
        """What a student is expected to cost.

        Args:
            student: any network of the family.
            site: its channels and classes.
            size: height and width of the image in pixels.

        Returns:
            The estimate; its evidence is ``modelled`` for another size or other options than those measured.

        Raises:
            OmniFedError: OF303 for a size that the student does not take.
        """
        times = self.dense_ms_per_gmac, self.pointwise_ms_per_gmac, self.depthwise_ms_per_gmac, self.layer_ms
        memory = self.base_mib, self.weights_factor, self.activations_factor
        asked = work(student, site, size)
        p50 = float(time_row(asked) @ times)
        near = size == self.size and option_set(student) == option_set(self.options)
        return Estimate(
            p50_ms=p50,
            p95_ms=p50 * self.tail,
            peak_mib=float(memory_row(asked) @ memory),
            evidence=self.evidence if near else "modelled",
        )


def probes(options: StudentSpec, n: int = MOST_PROBES) -> tuple[StudentSpec, ...]:
    """The networks to measure on a device.

    Args:
        options: their options; its alpha and beta mean nothing.
        n: how many, 5..10.

    Returns:
        ``n`` distinct networks, spread over depth and width, the corners first.
    """
    if not LEAST_PROBES <= n <= MOST_PROBES:
        raise ValueError(f"n must lie in {LEAST_PROBES}..{MOST_PROBES}, seen {n}")
    return tuple(options.model_copy(update={"alpha": alpha, "beta": beta}) for alpha, beta in DESIGN[:n])


def fit_latency(measured: Sequence[tuple[StudentSpec, Measurement]], site: SiteSpec) -> LatencyModel:
    """Fits the model.

    Args:
        measured: at least 5 distinct networks of one option set, measured on one device with one engine, number of
            threads and image size.
        site: channels and classes of the measured networks.

    Returns:
        The model, with its errors.

    Raises:
        OmniFedError: OF711 for too few or unlike measurements.
    """
    _check(measured)
    first = measured[0][1]
    asked = [work(student, site, m.size) for student, m in measured]
    rows = np.stack([time_row(one) for one in asked])
    p50 = np.array([m.p50_ms for _, m in measured])
    times = fit_relative(rows, p50, TIME_PATTERN)
    memory_rows = np.stack([memory_row(one) for one in asked])
    peak = np.array([m.peak_mib for _, m in measured])
    memory = fit_relative(memory_rows, peak, MEMORY_PATTERN)
    predicted, left_out = rows @ times, _left_out(rows, p50)
    return LatencyModel(
        options=StudentSpec.model_validate(option_set(measured[0][0])),
        engine=first.engine,
        threads=first.threads,
        size=first.size,
        evidence="measured" if all(m.evidence == "measured" for _, m in measured) else "modelled",
        dense_ms_per_gmac=times[0],
        pointwise_ms_per_gmac=times[1],
        depthwise_ms_per_gmac=times[2],
        layer_ms=times[3],
        tail=max(1.0, median(m.p95_ms / m.p50_ms for _, m in measured)),
        base_mib=memory[0],
        weights_factor=memory[1],
        activations_factor=memory[2],
        networks=tuple(
            FittedNetwork(key=scaling.architecture_key(student), p50_ms=m.p50_ms, predicted_ms=a, left_out_ms=b)
            for (student, m), a, b in zip(measured, predicted.tolist(), left_out.tolist(), strict=True)
        ),
        error=_error(predicted, p50),
        left_out_error=_error(left_out, p50),
        memory_error=_error(memory_rows @ memory, peak),
    )


def _left_out(rows: np.ndarray, seen: np.ndarray) -> np.ndarray:
    others = [np.arange(len(seen)) != i for i in range(len(seen))]
    return np.array([rows[i] @ fit_relative(rows[o], seen[o], TIME_PATTERN) for i, o in enumerate(others)])


def _error(predicted: np.ndarray, seen: np.ndarray) -> float:
    return float(np.abs(predicted / seen - 1).mean())


def time_row(asked: Work) -> np.ndarray:
    """(4,): what the coefficients of time multiply, in the order of :data:`TIME_PATTERN`."""
    return np.array([asked.dense.gmac, asked.pointwise.gmac, asked.depthwise.gmac, asked.layers])


def memory_row(asked: Work) -> np.ndarray:
    """(3,): what the coefficients of memory multiply, in the order of :data:`MEMORY_PATTERN`."""
    return np.array([1.0, asked.weights_mib, asked.activations_mib])


def option_set(student: StudentSpec) -> dict[str, object]:
    """All that a spec says apart from alpha and beta."""
    return student.model_dump(exclude={"alpha", "beta"})


def _check(measured: Sequence[tuple[StudentSpec, Measurement]]) -> None:
    keys = {scaling.architecture_key(student) for student, _ in measured}
    kinds = {(m.engine, m.threads, m.size, str(option_set(student))) for student, m in measured}
    if len(keys) < LEAST_PROBES or len(kinds) > 1:
        raise OmniFedError(
            "OF711",
            f"A latency model is fitted on at least {LEAST_PROBES} networks of one option set, measured with one "
            "engine, number of threads and image size.",
            seen=f"{len(keys)} networks, {len(kinds)} kinds of measurement",
            remedy="Measure the networks that `omnifed devices probes` makes, all in the same way.",
        )
