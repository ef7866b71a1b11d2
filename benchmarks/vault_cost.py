"""What it costs that the teacher's cache is encrypted: a distilled student's step with it and with plain files.

    python benchmarks/vault_cost.py [--size 256] [--student omnisegnet:compact] [--json]

Both sides in one run, in turns, in CPU time of one thread, as a busy machine shares its cores. Nothing stays in memory:
each step reads all of its maps from files, as at a site with more images than memory; usually a map is read once.
`whole` compares epochs, which differ from each other by more than the encryption costs; `reading` compares what alone
is different, the reading of a batch's maps, and relates it to a plain step. Target: at most 1.05 times plain.
The images are noise, which does not change the amount of work.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from distill_cost import noise

from omnifed.distill.omnikd import OmniKD
from omnifed.distill.spec import DistillSpec
from omnifed.models.registry import build_student
from omnifed.models.spec import StudentSpec
from omnifed.states import read_sealed, read_state, write_state
from omnifed.teachers import cache as module
from omnifed.teachers.cache import Maps, TeacherCache
from omnifed.teachers.registry import build_teacher
from omnifed.teachers.spec import TeacherSpec
from omnifed.training.batches import Batches
from omnifed.training.loop import fit
from omnifed.training.objectives import distilled
from omnifed.training.spec import TrainSpec

TARGET = 1.05
KEY = bytes(range(32))
PURPOSE = "teacher cache"
BATCH, READS = 8, 60


class Plain(TeacherCache):
    """The same cache with its files in clear: what is compared with."""

    def _read(self, path: Path) -> Maps | None:
        arrays, _ = read_state(path)
        return {
            name: (torch.from_numpy(value), torch.from_numpy(arrays[f"{name}/scale"]).float()[:, None, None])
            for name, value in arrays.items()
            if not name.endswith("/scale")
        }


def in_clear(cache: TeacherCache, folder: Path) -> Plain:
    """A plain copy of a cache."""
    for path in cache.folder.iterdir():
        write_state(folder / path.name, *read_sealed(path, KEY, PURPOSE))
    return Plain(folder, cache.teacher_id, KEY)


def cpu_ms(call: Callable[[], object]) -> float:
    began = time.process_time_ns()
    call()
    return (time.process_time_ns() - began) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256, help="side of the images in pixels")
    parser.add_argument("--student", default="omnisegnet:compact")
    parser.add_argument("--images", type=int, default=32, help="images an epoch")
    parser.add_argument("--epochs", type=int, default=5, help="measured epochs of each, after one that warms up")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = noise(options.images, options.size)
    spec = TrainSpec(steps=max(1, options.images // BATCH), schedule="constant")
    with tempfile.TemporaryDirectory() as folder:
        teacher = build_teacher(TeacherSpec(), data.spec, image_size=(options.size, options.size))
        sealed = TeacherCache(Path(folder) / "sealed", teacher.id, KEY)
        sealed.build(teacher, data, views=2)
        caches = {"plain": in_clear(sealed, Path(folder) / "plain"), "sealed": sealed}
        students = {name: build_student(StudentSpec.parse(options.student), data.spec) for name in caches}
        steps: dict[str, list[float]] = {name: [] for name in caches}
        reads: dict[str, list[float]] = {name: [] for name in caches}
        module.STORE_BYTES = 0
        for epoch in range(options.epochs + 1):
            for name in sorted(caches, reverse=bool(epoch % 2)):
                kd = OmniKD(DistillSpec(), students[name].feature_channels, teacher.feature_channels)
                batches = Batches(data, spec, cache=caches[name], views=2)
                took = cpu_ms(partial(fit, students[name], data, None, spec, distilled(kd), batches=batches))
                if epoch:
                    steps[name].append(took / spec.steps)
        for turn in range(READS):
            for name in sorted(caches, reverse=bool(turn % 2)):
                rows = [(BATCH * turn + i) % options.images for i in range(BATCH)]
                keys = [data.keys[row] for row in rows]
                reads[name].append(cpu_ms(partial(caches[name].get, keys, [turn % 2] * BATCH)))
        size = max(path.stat().st_size for path in sealed.folder.iterdir())
    step = {name: statistics.median(values) for name, values in steps.items()}
    read = {name: statistics.median(values) for name, values in reads.items()}
    pairs = [a / b for a, b in zip(steps["sealed"], steps["plain"], strict=True)]
    ratio = (step["plain"] + read["sealed"] - read["plain"]) / step["plain"]
    figures = {
        "cpu_ms_a_step": {name: round(value, 1) for name, value in step.items()},
        "cpu_ms_to_read_a_batch": {name: round(value, 3) for name, value in read.items()},
        "ratio_whole": {"median": round(statistics.median(pairs), 3), "from": min(pairs), "to": max(pairs)},
        "ratio_reading": round(ratio, 5),
        "bytes_a_map": size,
        "target": TARGET,
        "holds": ratio <= TARGET,
        "images": options.images,
        "size": options.size,
        "student": options.student,
        "machine": f"{platform.machine()}, 1 thread, torch {torch.__version__}",
    }
    if options.json:
        print(json.dumps(figures, indent=1))
        return
    for name in caches:
        print(f"{name:6} {step[name]:8.1f} ms a step, of it {read[name]:6.2f} ms to read the maps of {BATCH} images")
    print(
        f"sealed / plain, whole: {statistics.median(pairs):.3f} ({min(pairs):.3f} to {max(pairs):.3f} of single epochs)"
    )
    print(f"sealed / plain, by what reading costs: {ratio:.4f}; {size} bytes a map")
    print(f"{options.student} at {options.size} px, {options.images} images; {figures['machine']}")
    print(f"at most {TARGET} times plain: {'holds' if figures['holds'] else 'MISSED'}")


if __name__ == "__main__":
    main()
