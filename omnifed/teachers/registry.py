"""The kinds of teachers. A new one is its file and its line here."""

from __future__ import annotations

from pathlib import Path

from omnifed.models.base import SiteSpec
from omnifed.teachers.base import Teacher
from omnifed.teachers.spec import TeacherSpec


def build_teacher(
    spec: TeacherSpec,
    site: SiteSpec,
    *,
    image_size: tuple[int, int],
    seed: int = 0,
    checkpoint_dir: Path | None = None,
) -> Teacher:
    """Builds a teacher as it is before its fit.

    Args:
        spec: kind and settings.
        site: channels, classes and modality.
        image_size: height and width in pixels of the student's images.
        seed: of the weights that come from no checkpoint.
        checkpoint_dir: where a checkpoint without a path is looked for, default ``~/.omnifed/checkpoints``.

    Raises:
        OmniFedError: OF320..OF323 for a missing, wrong or unsafe checkpoint; OF327 if the model does not fit the site.
    """
    height, width = (int(side) for side in image_size)
    match spec.kind:
        case "sam":
            from omnifed.teachers.sam import build_sam

            return build_sam(spec, site, (height, width), seed, checkpoint_dir)
        case "sam-tiny":
            from omnifed.teachers.sam import build_sam_tiny

            return build_sam_tiny(spec, site, (height, width), seed)
        case "cnn":
            from omnifed.teachers.cnn import build_cnn

            return build_cnn(spec, site, seed)
        case "onnx":
            from omnifed.teachers.onnx import OnnxTeacher

            return OnnxTeacher(spec, site)
