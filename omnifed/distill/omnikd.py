"""OmniKD: the weighted sum of the terms, each divided by its own scale."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from omnifed.distill.spec import TERMS, DistillSpec, TermName
from omnifed.distill.terms import TABLE, to_grid
from omnifed.errors import OmniFedError
from omnifed.models.base import BOTTLENECK, Out

SMALLEST = 1e-8
"""Least scale: a term that is always 0 stays 0."""


class OmniKD(nn.Module):
    """sum_i lambda_i * L_i / m_i over the terms that student and teacher can feed.

    m_i is the mean of term i over the first ``calibration_steps`` training steps (up to there the mean so far), then
    frozen; it is part of ``state_dict``, as is the 1x1 projector of the features term. So lambda is a term's relative
    contribution whatever its raw size. Every image counts, with or without a mask.

    Args:
        spec: weights, temperature, and scales where the federation fixed them.
        student_channels: channels of the student's taps.
        teacher_channels: channels of the teacher's taps; empty for a teacher that gives logits only.
        seed: of the projector's first weights.
    """

    scale_sum: Tensor
    scale_count: Tensor

    def __init__(
        self,
        spec: DistillSpec,
        student_channels: Mapping[str, int],
        teacher_channels: Mapping[str, int],
        *,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.spec = spec
        self.skipped: dict[str, str] = {}
        for name in TERMS:
            if spec.weights.get(name, 0) > 0 and TABLE[name].needs != "logits":
                for who, taps in (("student", student_channels), ("teacher", teacher_channels)):
                    if BOTTLENECK not in taps:
                        self.skipped[name] = f"the {who} gives no {BOTTLENECK} features"
        self.terms: tuple[TermName, ...] = tuple(
            name for name in TERMS if spec.weights.get(name, 0) > 0 and name not in self.skipped
        )
        self.projector: nn.Conv2d | None = None
        if any(TABLE[name].needs == "projected" for name in self.terms):
            self.projector = nn.Conv2d(student_channels[BOTTLENECK], teacher_channels[BOTTLENECK], 1)
            generator = torch.Generator().manual_seed(seed)
            nn.init.kaiming_normal_(self.projector.weight, nonlinearity="linear", generator=generator)
            nn.init.zeros_(self.projector.bias)  # type: ignore[arg-type]
        # float64: safe to sum, and JSON carries it without loss.
        self.register_buffer("scale_sum", torch.zeros(len(self.terms), dtype=torch.float64))
        self.register_buffer("scale_count", torch.zeros(len(self.terms), dtype=torch.int64))
        for i, name in enumerate(self.terms):
            if name in spec.scales:
                self.scale_sum[i] = spec.scales[name] * spec.calibration_steps
                self.scale_count[i] = spec.calibration_steps

    @property
    def scales(self) -> dict[TermName, float]:
        """m_i by term, as far as measured; empty before the first training step."""
        counts = self.scale_count.tolist()
        return {
            name: max(total / count, SMALLEST)
            for name, total, count in zip(self.terms, self.scale_sum.tolist(), counts, strict=True)
            if count
        }

    @property
    def frozen(self) -> bool:
        """Whether all scales are final."""
        return bool((self.scale_count >= self.spec.calibration_steps).all())

    def forward(self, student: Out, teacher: Out) -> tuple[Tensor, dict[str, Tensor]]:
        """Compares one batch.

        Args:
            student: logits (B, C, H, W) and features.
            teacher: logits (B, C, h, w) and features, of the very same images and views; used without gradient.

        Returns:
            The weighted sum (scalar, without beta) and the raw value of each term, detached, by name.

        Raises:
            OmniFedError: OF350 if student and teacher differ in classes.
        """
        if student.logits.shape[1] != teacher.logits.shape[1]:
            raise OmniFedError(
                "OF350",
                "A student and its teacher must have the same classes.",
                seen=f"student {student.logits.shape[1]} classes, teacher {teacher.logits.shape[1]}",
                remedy="Build both for the same site, or export the teacher again for its labels.",
            )
        with torch.autocast(student.logits.device.type, enabled=False):
            raw = {name: self._term(name, student, teacher) for name in self.terms}
        values: dict[str, Tensor] = {name: value.detach() for name, value in raw.items()}
        if self.training:
            self._calibrate(values)
        scales = self.scales
        total = student.logits.sum() * 0.0 if not raw else torch.zeros((), device=student.logits.device)
        for name, value in raw.items():
            total = total + self.spec.weights[name] / scales.get(name, 1.0) * value
        return total, values

    def _term(self, name: TermName, student: Out, teacher: Out) -> Tensor:
        term = TABLE[name]
        if term.needs == "logits":
            return term.function(_full(student.logits), _full(teacher.logits).detach(), self.spec.temperature)
        ours, theirs = _full(student.features[BOTTLENECK]), _full(teacher.features[BOTTLENECK]).detach()
        if term.needs == "projected":
            assert self.projector is not None
            # A 1x1 convolution commutes with pooling and with bilinear resizing: it runs on the smaller of the grids.
            if ours.shape[-1] > theirs.shape[-1]:
                ours = to_grid(ours, (theirs.shape[-2], theirs.shape[-1]))
            ours = self.projector(ours)
        return term.function(ours, theirs)

    @torch.no_grad()
    def _calibrate(self, values: Mapping[str, Tensor]) -> None:
        for i, name in enumerate(self.terms):
            if self.scale_count[i] < self.spec.calibration_steps and torch.isfinite(values[name]):
                self.scale_sum[i] += values[name].double()
                self.scale_count[i] += 1


def _full(tensor: Tensor) -> Tensor:
    """fp32 or better: softmax, norms and differences of close numbers need it."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()
