"""What was measured of one network on one device: figures with units in their names and evidence beside. No torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from omnifed.config import Frozen

Engine = Literal["ort", "openvino"]
ENGINES: dict[Engine, str] = {"ort": "ONNX Runtime", "openvino": "OpenVINO"}
"""The engines, and their names for people."""
Evidence = Literal["measured", "published", "modelled"]
"""Where a figure is from: measured there, published by others, or computed from other figures."""
MOST_VARIATION = 0.10
"""Coefficient of variation above which a measurement is not believed."""


class Measurement(Frozen):
    """Inference of one image at a time, in a process of its own.

    Attributes:
        network: architecture key of the student, or the file's sha256.
        engine: ONNX Runtime or OpenVINO.
        threads: of one inference.
        size: height and width of the image in pixels.
        warmups, runs: inferences before and in the measurement.
        p50_ms, p95_ms: percentiles of the wall time of one inference.
        cpu_ms: CPU time of one inference, all threads.
        variation: the larger of the robust coefficient of variation of the runs' wall time, and of the share of time
            for which a run waited for a core: beside a busy program times can be steady and wrong.
        load_ms: wall time to load the model.
        peak_mib: peak resident memory of the process.
        energy_mj: energy of one inference in millijoule; None where the machine exposes no counter.
        evidence: ``measured``, or ``modelled`` on an emulated device.
    """

    network: str
    engine: Engine = "ort"
    threads: int = Field(1, ge=1)
    size: tuple[int, int]
    warmups: int = Field(ge=0)
    runs: int = Field(ge=1)
    p50_ms: float = Field(gt=0)
    p95_ms: float = Field(gt=0)
    cpu_ms: float = Field(ge=0)
    variation: float = Field(ge=0)
    load_ms: float = Field(ge=0)
    peak_mib: float = Field(gt=0)
    energy_mj: float | None = None
    evidence: Evidence = "measured"


class Estimate(Frozen):
    """What a student is expected to cost on a device.

    Attributes:
        p50_ms, p95_ms: of one image's inference.
        peak_mib: of the process.
        evidence: where the figures are from.
    """

    p50_ms: float
    p95_ms: float
    peak_mib: float
    evidence: Evidence
