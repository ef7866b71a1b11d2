"""How a student is named in configurations, tasks and on the command line. Needs no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, ValidationError, model_validator

from omnifed.config import Frozen
from omnifed.errors import OmniFedError

PRESETS: dict[str, tuple[float, float]] = {"compact": (0.62, 0.54), "balanced": (1.0, 1.0), "accurate": (1.38, 1.6)}
"""(alpha, beta) of the paper's three variants (Table 1)."""
EDGE: dict[str, object] = {"stem_stride": 2, "fusion": "depthwise", "branches": True}
"""Options of ``compact-edge``, ``balanced-edge`` and ``accurate-edge``: the paper's sizes with what measured
Dice against latency chose (docs/students.md, benchmarks/edge_report.py)."""
_EDGE = "-edge"


class StudentSpec(Frozen):
    """A student by family, scaling and options.

    Attributes:
        family: ``omnisegnet``; more families register in :mod:`omnifed.models.registry`.
        alpha: depth multiplier, 0.6..1.5.
        beta: width multiplier, 0.5..2.0.
        stem_stride: 1 as in the paper; 2 quarters the latency (logits are upsampled once more).
        fusion: the 3x3 convolution of the concat block: ``group`` (the paper's, 2 groups) or ``depthwise``.
        upsample: of the decoder: ``bilinear`` as in the paper, or ``nearest``.
        head: ``pointwise`` (logits at the stem's resolution, upsampled bilinearly where the stem strides), or
            ``shuffle``: one logit for each pixel under the stem's stride, by pixel shuffle (Shi et al., CVPR 2016).
        expansion: the concat block's inverted bottleneck widens c channels to ``expansion * c``.
        branches: beside each block's depthwise 3x3 a depthwise 1x1 and the identity, each with its norm, which fold
            into the 3x3 on export (RepVGG, Ding et al., CVPR 2021; MobileOne): training costs more, inference nothing.
        norm: ``batch`` as in the paper or ``group`` (needed by DP-SGD).
        se: a gate in each block as in the paper; ``stage``: one in each encoder stage and decoder level; or none.
        aspp: switched off only for ablations.
    """

    family: Literal["omnisegnet"] = "omnisegnet"
    alpha: float = Field(1.0, ge=0.6, le=1.5)
    beta: float = Field(1.0, ge=0.5, le=2.0)
    stem_stride: Literal[1, 2] = 1
    fusion: Literal["group", "depthwise"] = "group"
    upsample: Literal["bilinear", "nearest"] = "bilinear"
    head: Literal["pointwise", "shuffle"] = "pointwise"
    expansion: int = Field(3, ge=1, le=4)
    branches: bool = False
    norm: Literal["batch", "group"] = "batch"
    se: bool | Literal["stage"] = True
    aspp: bool = True

    @model_validator(mode="after")
    def _fits(self) -> StudentSpec:
        if self.head == "shuffle" and self.stem_stride == 1:
            raise ValueError("head=shuffle needs stem_stride=2: there is nothing to shuffle at full resolution")
        if self.branches and self.norm == "group":
            raise ValueError("branches need norm=batch: a group norm does not fold into a convolution")
        return self

    @classmethod
    def parse(cls, text: str) -> StudentSpec:
        """Reads ``omnisegnet:compact``, ``omnisegnet:compact-edge``, ``omnisegnet:compact,stem_stride=2`` or
        ``omnisegnet:alpha=0.8,beta=0.7``.

        Raises:
            OmniFedError: OF301 for an unknown family, preset or option.
        """
        family, _, rest = text.partition(":")
        values: dict[str, object] = {"family": family}
        try:
            for item in filter(None, (part.strip() for part in rest.split(","))):
                key, equals, value = item.partition("=")
                if equals:
                    values[key] = int(value) if value.isdecimal() else value
                else:
                    values |= EDGE if item.endswith(_EDGE) else {}
                    values["alpha"], values["beta"] = PRESETS[item.removesuffix(_EDGE)]
            return cls.model_validate(values)
        except (KeyError, ValueError) as error:
            raise OmniFedError(
                "OF301",
                "A student is FAMILY:PRESET or FAMILY:key=value,... with known family, preset and options.",
                seen=f"{text!r}: {_cause(error)}",
                remedy=f"Use for example omnisegnet:compact; presets are {', '.join(PRESETS)}, each also with {_EDGE}; "
                f"options are "
                f"{', '.join(list(cls.model_fields)[1:])}.",
            ) from None


def _cause(error: KeyError | ValueError) -> str:
    if isinstance(error, ValidationError):
        return "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
    return f"unknown {error}"
