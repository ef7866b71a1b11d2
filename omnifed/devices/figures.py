"""What is known of a device: figures with evidence and source, and others' measurements. Needs no torch."""

from __future__ import annotations

from pydantic import Field, model_validator

from omnifed.config import Frozen
from omnifed.devices.measurement import Evidence


class Figure(Frozen):
    """One number; its unit is in its key's name.

    Attributes:
        value: the number.
        evidence: measured here, published by others, or computed from other figures.
        source: who says so; of a modelled figure, the formula.
    """

    value: float = Field(gt=0)
    evidence: Evidence
    source: str = Field(min_length=1)


class Figures(Frozen):
    """What is known of a device.

    Attributes:
        memory_mib: of the whole machine.
        peak_gmac_s: highest rate at the profile's precision and threads, billions of multiply-accumulates a second.
        rate_gmac_s: rate that dense 3x3 convolutions reach.
        bandwidth_gb_s: of the memory, 1e9 bytes a second.
        layer_us: time of a layer whatever its size.
        overhead_ms: time of an inference whatever the network.
        base_mib: memory of the process without a model.
    """

    memory_mib: Figure
    peak_gmac_s: Figure | None = None
    rate_gmac_s: Figure | None = None
    bandwidth_gb_s: Figure | None = None
    layer_us: Figure | None = None
    overhead_ms: Figure | None = None
    base_mib: Figure | None = None

    @property
    def roofline(self) -> tuple[float, ...]:
        """Rate, bandwidth, base memory: those of them that are known."""
        known = self.rate_gmac_s, self.bandwidth_gb_s, self.base_mib
        return tuple(figure.value for figure in known if figure)

    def fixed_ms(self, layers: int) -> float:
        """Time of an inference of a network of so many layers apart from its arithmetic and traffic."""
        layer_us = self.layer_us.value if self.layer_us else 0.0
        return (self.overhead_ms.value if self.overhead_ms else 0.0) + layers * layer_us / 1e3


class Published(Frozen):
    """A figure of another network, by others, to hold the profile against.

    Attributes:
        network: its name.
        size: height and width in pixels.
        engine: with its precision.
        ms: of one image at a time; None where only a throughput is known.
        fps: throughput of batches or of several engines at once.
        gmac: billions of multiply-accumulates of one image, where known.
        source: who says so.
        note: what keeps it from being compared.
    """

    network: str
    size: tuple[int, int]
    engine: str
    ms: float | None = Field(None, gt=0)
    fps: float | None = Field(None, gt=0)
    gmac: float | None = Field(None, gt=0)
    source: str = Field(min_length=1)
    note: str = ""

    @model_validator(mode="after")
    def _one(self) -> Published:
        if (self.ms is None) == (self.fps is None):
            raise ValueError("give ms (one image at a time) or fps (throughput)")
        return self
