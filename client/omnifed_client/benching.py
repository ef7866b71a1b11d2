"""How long students take on the site's own device: random weights, exported and measured in a process of their own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from omnifed.data.prepare import SiteData
from omnifed.devices.measurement import Measurement
from omnifed.federation.tasks import BenchReply, BenchTask
from omnifed.files import write_json
from omnifed.models.scaling import architecture_key
from omnifed.models.spec import StudentSpec
from omnifed.teachers.base import Progress
from omnifed_client.store import SiteStore


def measure(task: BenchTask, data: SiteData, store: SiteStore, progress: Progress | None = None) -> BenchReply:
    """Measures each student once on this machine; what was measured before, for whatever task, is not measured again.

    Args:
        task: which students, with which engine and how many threads.
        data: says the images' size, and channels and classes of the students.
        store: keeps the measurements.
        progress: told about networks.

    Returns:
        The reply without its seconds, which are filled in by the caller.

    Raises:
        OmniFedError: what :func:`omnifed.devices.bench.bench` raises; the networks before keep their measurements.
    """
    from omnifed.devices.machine import describe_machine

    machine = describe_machine()
    found: list[Measurement] = []
    for student in task.students:

        def tell(text: str, student: StudentSpec = student) -> None:
            if progress is not None:
                progress(len(found), len(task.students), f"{architecture_key(student)}{text}")

        tell("")
        found.append(_measured(student, task, data, store, machine.text, tell))
        tell(f" {found[-1].p50_ms:.1f} ms")
    return BenchReply(
        id=task.id,
        site=data.config.name,
        device=machine.text,
        memory_mib=machine.memory_mib,
        measurements=tuple(found),
    )


def _measured(
    student: StudentSpec, task: BenchTask, data: SiteData, store: SiteStore, machine: str, tell: Callable[[str], None]
) -> Measurement:
    from omnifed.devices.bench import bench

    key, spec = architecture_key(student), data.config.spec
    about = [key, task.engine, task.threads, _size(data), spec.channels, spec.classes, machine]
    kept = store.measurement(json.dumps(about))
    try:
        return Measurement.model_validate_json(kept.read_bytes())
    except (OSError, ValueError):
        pass  # absent or damaged
    model = kept.with_suffix(".onnx")  # beside it, so that what a killed task left is overwritten, not piled up
    try:
        _export(student, data, model)
        found = bench(
            model,
            engine=task.engine,
            threads=task.threads,
            network=key,
            progress=lambda share: tell(f" {share:.0%}"),
        )
    finally:
        model.unlink(missing_ok=True)
    write_json(kept, found.model_dump(mode="json"), mode=0o600)
    return found


def _export(student: StudentSpec, data: SiteData, path: Path) -> None:
    # Heavy, and few tasks need it: a worker that trains must not carry it.
    import torch

    from omnifed.export.onnx import export_student
    from omnifed.models.registry import build_student

    model = build_student(student, data.config.spec, seed=0)
    size = _size(data)
    # Normalised images are about this; the site's own are not needed to see that the file is the student.
    sample = torch.randn((1, data.config.channels, *size), generator=torch.Generator().manual_seed(0))
    export_student(model, data.config.model_copy(update={"image_size": size}), path, sample)


def _size(data: SiteData) -> tuple[int, int]:
    return int(data.train.images.shape[2]), int(data.train.images.shape[3])
