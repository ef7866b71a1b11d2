"""OmniKD's settings and the published weights. Needs no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from omnifed.config import Frozen

TermName = Literal["logits", "features", "attention", "relation", "context"]
TERMS: tuple[TermName, ...] = ("logits", "features", "attention", "relation", "context")


def _table3(*values: float) -> dict[TermName, float]:
    return dict(zip(TERMS, values, strict=True))


LAMBDA: dict[str, dict[TermName, float]] = {
    "dermoscopy": _table3(1.5, 2.0, 1.0, 0.5, 1.5),
    "ct": _table3(2.0, 2.0, 1.0, 0.5, 1.0),
    "mri": _table3(1.5, 1.5, 1.0, 0.5, 1.0),
    "oct": _table3(2.0, 1.5, 1.0, 0.5, 1.0),
    "intraop": _table3(1.5, 1.5, 1.0, 0.5, 1.5),
    "brain-mri": _table3(1.8, 2.5, 1.0, 0.5, 1.0),
    "universal": _table3(1.72, 1.83, 1.0, 0.5, 1.17),
}
"""Weights by modality, Table 3 of the OmniSegNet paper, and their mean."""

PUBLIC_SCALES: dict[TermName, float] = {"logits": 5.7}
"""m_i that no patient has a part in, by term that looks at each image by itself: the usual raw value at the first step.
All that differential privacy leaves of OmniKD."""


class DistillSpec(Frozen):
    """L = L_sup + beta * sum_i weights_i * L_i / scales_i.

    Attributes:
        weights: lambda by term; a term that is not named, or 0, is not computed.
        beta: weight of the whole sum against the supervised loss.
        temperature: T of the logits term.
        scales: m_i by term; empty means: measure over the first ``calibration_steps`` steps, then freeze.
        calibration_steps: steps over which m_i is the mean of term i.
    """

    weights: dict[TermName, float] = LAMBDA["universal"]
    beta: float = Field(0.3, ge=0)
    temperature: float = Field(4.0, gt=0)
    scales: dict[TermName, float] = {}
    calibration_steps: int = Field(20, ge=1)

    @field_validator("weights")
    @classmethod
    def _not_negative(cls, weights: dict[TermName, float]) -> dict[TermName, float]:
        if any(not 0 <= w < float("inf") for w in weights.values()):
            raise ValueError("weights must be finite and at least 0")
        return weights
