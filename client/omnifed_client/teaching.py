"""The teacher at the site: fine-tuned once, cached once, found again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from omnifed.data.prepare import SiteData
from omnifed.errors import OmniFedError
from omnifed.federation.replies import TeachReply
from omnifed.federation.tasks import TeachTask
from omnifed.files import write_json
from omnifed.progress import Progress
from omnifed.teachers.base import Teacher
from omnifed.teachers.cache import TeacherCache
from omnifed.teachers.registry import build_teacher
from omnifed.teachers.spec import TeacherSpec
from omnifed_client.store import SiteStore

WEIGHTS = "weights.sealed"


@dataclass(frozen=True)
class Lesson:
    """What a student needs of its site's teacher: the cached maps, not the network."""

    cache: TeacherCache
    views: int
    joint_flips: bool
    feature_channels: Mapping[str, int]


def teach(
    task: TeachTask, data: SiteData, store: SiteStore, checkpoints: Path | None, progress: Progress | None = None
) -> TeachReply:
    """Fine-tunes the teacher on the site's labelled images and caches its maps of every training image.

    A public teacher is not fine-tuned, and nothing of the training images but their number is told or decided by: its
    students may be trained with differential privacy.

    Raises:
        OmniFedError: OF856 for a public teacher that the site made itself; what building and fitting raise.
    """
    public, folder = task.teacher.public, store.teacher_folder(task.teacher)
    teacher = _build(task.teacher, data, store, checkpoints)
    weights, fitted = folder / WEIGHTS, folder / "fit.json"
    (folder / "weights.safetensors").unlink(missing_ok=True)  # of releases that did not encrypt
    if fitted.is_file() and weights.is_file():
        teacher.load(weights, store.vault)
        metrics = json.loads(fitted.read_text())
    else:
        checkpoint = store.file(folder / "fit.sealed")
        metrics = dict(teacher.fit(data.train, data.val, checkpoint=checkpoint, progress=progress))
        teacher.save(weights, store.vault)
        write_json(fitted, metrics)
    cache = TeacherCache(folder / "cache", teacher.id, store.vault)
    report = cache.build(teacher, data.train, 1 if public else task.teacher.views, progress, mirrored=not public)
    about = {
        "id": teacher.id,
        "feature_channels": dict(teacher.feature_channels),
        # A teacher that does not commute with mirroring is wrong on mirrored views: only view 0 is learned from.
        "views": task.teacher.views if report.joint_flips else 1,
        "joint_flips": report.joint_flips,
    }
    write_json(folder / "lesson.json", about)
    return TeachReply(
        id=task.id,
        site=data.config.name,
        teacher_id=teacher.id,
        dice=metrics["dice"],
        cached=report.cached + report.reused,
        cache_bytes=report.bytes,
        flip_error=report.flip_error,
        joint_flips=report.joint_flips,
    )


def lesson_of(spec: TeacherSpec | None, store: SiteStore) -> Lesson | None:
    """What :func:`teach` left behind, or None where it has not run."""
    if spec is None:
        return None
    folder = store.teacher_folder(spec)
    if not (folder / "lesson.json").is_file():
        return None
    about = json.loads((folder / "lesson.json").read_text())
    cache = TeacherCache(folder / "cache", about["id"], store.vault)
    return Lesson(cache, about["views"], about["joint_flips"], about["feature_channels"])


def load_teacher(spec: TeacherSpec | None, data: SiteData, store: SiteStore, checkpoints: Path | None) -> Teacher:
    """The site's fine-tuned teacher.

    Raises:
        OmniFedError: OF510 if it was not taught yet.
    """
    if spec is None or not (weights := store.teacher_folder(spec) / WEIGHTS).is_file():
        raise OmniFedError(
            "OF510",
            "A task that needs the site's teacher comes after the teach task.",
            remedy="Send a teach task with the same teacher first.",
        )
    teacher = _build(spec, data, store, checkpoints)
    teacher.load(weights, store.vault)
    return teacher


def _build(spec: TeacherSpec, data: SiteData, store: SiteStore, checkpoints: Path | None) -> Teacher:
    if spec.public and _made_here(spec, store):
        raise OmniFedError(
            "OF856",
            "A public teacher comes from outside the site: what the site made has seen its patients.",
            seen=spec.checkpoint,
            remedy="Name a model that was trained elsewhere.",
        )
    return build_teacher(spec, data.config.spec, image_size=data.train.images.shape[2:], checkpoint_dir=checkpoints)


def _made_here(spec: TeacherSpec, store: SiteStore) -> bool:
    """Whether a file lies in the state folder, or is a copy of a model there: a coordinator knows hashes of exports."""
    if Path(spec.checkpoint).resolve().is_relative_to(store.folder.resolve()):
        return True
    exported = store.folder.rglob("model.onnx")
    return any(hashlib.sha256(path.read_bytes()).hexdigest() == spec.sha256.lower() for path in exported)
