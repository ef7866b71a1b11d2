"""The teacher ``cnn``: the accurate OmniSegNet, trained longer at the site; for hospitals without a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn import functional

from omnifed.models.base import Out, SiteSpec
from omnifed.models.registry import build_student
from omnifed.models.spec import PRESETS, StudentSpec
from omnifed.teachers.network import NetworkTeacher
from omnifed.teachers.spec import TeacherSpec


class PooledStudent(nn.Module):
    """A student whose logits are averaged to a fourth of the side, the grid of all teachers.

    Args:
        student: any student.
        size: side in pixels at which it sees the image; 0 takes the image as it is.
    """

    def __init__(self, student: nn.Module, size: int) -> None:
        super().__init__()
        self.student, self.size = student, size

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Out:
        """Image (B, C, H, W) to logits (B, classes, H/4, W/4) and the student's features."""
        if self.size:
            factor = self.size / max(x.shape[-2:])
            height, width = (max(32, round(side * factor / 32) * 32) for side in x.shape[-2:])
            x = functional.interpolate(x, (height, width), mode="bilinear", antialias=factor < 1)
        out = self.student(x)
        return Out(logits=functional.avg_pool2d(out.logits, 4), features=out.features)


def build_cnn(spec: TeacherSpec, site: SiteSpec, seed: int) -> NetworkTeacher:
    """Builds it with fresh weights; all of them are trained (``lora_rank`` has no meaning here)."""
    alpha, beta = PRESETS["accurate"]
    student = build_student(StudentSpec(alpha=alpha, beta=beta), site, seed=seed)
    channels: Mapping[str, int] = student.feature_channels
    about = {"kind": "cnn", "size": spec.size, "channels": site.channels}
    return NetworkTeacher(PooledStudent(student, spec.size), channels, spec.train, about)
