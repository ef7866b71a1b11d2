"""What OmniKD costs: a student's epoch plain, with cached OmniKD, and with the teacher run on line, in one run.

    python benchmarks/distill_cost.py [--size 256] [--student omnisegnet:compact] [--json]

The epochs are interleaved, so that a busy machine slows all three alike; the figures are medians. The images are noise
and the teacher (``--teacher sam`` is a ViT-B with random weights) is untrained: neither changes the amount of work.
Target: cached at most 1.2 times plain, and 5 times faster than on line with SAM.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from torch import Tensor, nn

from omnifed.data.prepared import Prepared
from omnifed.distill.omnikd import OmniKD
from omnifed.distill.spec import DistillSpec
from omnifed.models.base import SiteSpec
from omnifed.models.registry import build_student
from omnifed.models.spec import StudentSpec
from omnifed.teachers.base import Teacher
from omnifed.teachers.cache import TeacherCache
from omnifed.teachers.registry import build_teacher
from omnifed.teachers.spec import TeacherSpec
from omnifed.teachers.torchvision_shim import import_segment_anything
from omnifed.training.batch import Batch
from omnifed.training.batches import Batches
from omnifed.training.loop import fit
from omnifed.training.objectives import Distilled, distilled, supervised
from omnifed.training.precision import choose
from omnifed.training.spec import TrainSpec

TARGET = 1.2


class OnLine(Distilled):
    """Asks the teacher at each step instead of the cache."""

    def __init__(self, omnikd: OmniKD, teacher: Teacher) -> None:
        super().__init__(omnikd)
        self.ask = teacher.predict

    def forward(self, model: nn.Module, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        return super().forward(model, replace(batch, teacher=self.ask(batch.image)), step)


def noise(images: int, size: int) -> Prepared:
    draw = np.random.default_rng(0)
    return Prepared(
        spec=SiteSpec(3, 3, 2, "dermoscopy"),
        images=draw.normal(size=(images, 3, size, size)).astype(np.float16),
        masks=draw.integers(0, 3, (images, size, size), dtype=np.uint8),
        has_mask=np.ones(images, bool),
        patients=tuple(map(str, range(images))),
        ids=tuple(map(str, range(images))),
        keys=tuple(map(str, range(images))),
        spacing=np.full((images, 2), np.nan, np.float32),
        present=np.ones(3, bool),
    )


def stock_sam(folder: Path) -> TeacherSpec:
    """Meta's ViT-B with random weights: the work of a step does not depend on their values."""
    stock = import_segment_anything().Sam  # the shim must come before the package's builders
    from segment_anything import build_sam_vit_b

    model = build_sam_vit_b()
    assert isinstance(model, stock)
    path = folder / "vit_b.pth"
    torch.save(model.state_dict(), path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return TeacherSpec(kind="sam", variant="vit_b", checkpoint=str(path), sha256=digest)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256, help="side of the images in pixels")
    parser.add_argument("--student", default="omnisegnet:compact")
    parser.add_argument("--teacher", default="sam-tiny", choices=get_args(TeacherSpec.model_fields["kind"].annotation))
    parser.add_argument("--images", type=int, default=32, help="images an epoch")
    parser.add_argument("--epochs", type=int, default=5, help="measured epochs of each, after one that warms up")
    parser.add_argument("--threads", type=int, default=0, help="0: torch's choice")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    data = noise(options.images, options.size)
    spec = TrainSpec(steps=max(1, options.images // 8), schedule="constant")
    precision = choose("auto", torch.device("cpu"))
    with tempfile.TemporaryDirectory() as folder:
        asked = stock_sam(Path(folder)) if options.teacher == "sam" else TeacherSpec(kind=options.teacher)
        teacher = build_teacher(asked, data.spec, image_size=(options.size, options.size))
        cache = TeacherCache(Path(folder) / "cache", teacher.id, bytes(32))
        cache.build(teacher, data, views=2)
        students = {
            name: build_student(StudentSpec.parse(options.student), data.spec)
            for name in ("plain", "cached", "on-line")
        }
        kd = {
            name: OmniKD(DistillSpec(), students[name].feature_channels, teacher.feature_channels)
            for name in ("cached", "on-line")
        }
        plain = Batches(data, spec)
        arms = {
            "plain": (supervised(), plain),
            "cached": (distilled(kd["cached"]), Batches(data, spec, cache=cache, views=2)),
            "on-line": (OnLine(kd["on-line"], teacher), plain),
        }
        seconds: dict[str, list[float]] = {name: [] for name in arms}
        for epoch in range(options.epochs + 1):
            for name, (objective, batches) in arms.items():
                result = fit(students[name], data, None, spec, objective, batches=batches)
                if epoch:
                    seconds[name].append(result.seconds)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    figures = {
        "seconds_an_epoch": {name: round(value, 3) for name, value in medians.items()},
        "ratio_to_plain": {name: round(value / medians["plain"], 3) for name, value in medians.items()},
        "target_cached": TARGET,
        "holds": medians["cached"] <= TARGET * medians["plain"],
        "images": options.images,
        "size": options.size,
        "student": options.student,
        "teacher": options.teacher,
        "precision": str(precision),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
    }
    if options.json:
        print(json.dumps(figures, indent=1))
        return
    for name in arms:
        print(f"{name:8} {medians[name]:7.2f} s an epoch, {figures['ratio_to_plain'][name]:.2f} times plain")
    print(
        f"{options.student} at {options.size} px, {options.images} images, {figures['precision']}; {figures['machine']}"
    )
    print(f"cached at most {TARGET} times plain: {'holds' if figures['holds'] else 'MISSED'}")


if __name__ == "__main__":
    main()
