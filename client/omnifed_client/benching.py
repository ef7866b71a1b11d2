"""How long students take on the site's own device: random weights, exported and measured in a process of their own."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import omnifed
from omnifed.data.prepare import SiteData
from omnifed.devices.machine import Machine, describe_machine
from omnifed.devices.measurement import Measurement
from omnifed.errors import OmniFedError
from omnifed.federation.replies import BenchReply
from omnifed.federation.tasks import BenchTask
from omnifed.files import write_json
from omnifed.models.scaling import architecture_key
from omnifed.models.spec import StudentSpec
from omnifed.progress import Progress
from omnifed_client.store import SiteStore

UNSTEADY = "OF701"


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
        OmniFedError: what :func:`omnifed.devices.bench.bench` raises; the other networks keep their measurements. One
            that varies too much (OF701) is measured again after the others before that.
    """
    machine = describe_machine()
    watch: Progress = progress or (lambda done, total, text: None)
    found: dict[StudentSpec, Measurement] = {}
    try:
        for last in (False, True):
            for student in task.students:
                if student in found:
                    continue
                tell = partial(_tell, watch, len(found), len(task.students), architecture_key(student))
                try:
                    found[student] = _measured(student, task, data, _file(student, task, data, store, machine), tell)
                except OmniFedError as error:
                    # What disturbed the one may be over when all others have been measured.
                    if error.code != UNSTEADY or last:
                        raise
                    continue
                watch(len(found), len(task.students), f"{found[student].network} {found[student].p50_ms:.1f} ms")
    finally:
        for student in task.students:
            _model(_file(student, task, data, store, machine)).unlink(missing_ok=True)
    return BenchReply(
        id=task.id,
        site=data.config.name,
        device=machine.text,
        memory_mib=machine.memory_mib,
        measurements=tuple(found[student] for student in task.students),
    )


def _measured(
    student: StudentSpec, task: BenchTask, data: SiteData, kept: Path, tell: Callable[[float], None]
) -> Measurement:
    from omnifed.devices.bench import bench

    try:
        return Measurement.model_validate_json(kept.read_bytes())
    except (OSError, ValueError):
        pass  # absent or damaged
    tell(0.0)
    model = _model(kept)
    if not model.is_file():  # a task that was killed may have left it
        _export(student, data, model)
    key = architecture_key(student)
    found = bench(model, engine=task.engine, threads=task.threads, network=key, progress=tell)
    write_json(kept, found.model_dump(mode="json"), mode=0o600)
    return found


def _file(student: StudentSpec, task: BenchTask, data: SiteData, store: SiteStore, machine: Machine) -> Path:
    """Where a measurement is kept: by all that it depends on."""
    key, spec = architecture_key(student), data.config.spec
    about = [
        key,
        task.engine,
        task.threads,
        _size(data),
        spec.channels,
        spec.classes,
        machine.text,
        omnifed.__version__,
    ]
    return store.measurement(json.dumps(about))


def _model(kept: Path) -> Path:
    return kept.with_suffix(".onnx")


def _tell(watch: Progress, done: int, total: int, key: str, share: float) -> None:
    watch(done, total, f"{key} {share:.0%}")


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
