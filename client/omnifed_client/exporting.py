"""The model that a site would deploy, as one ONNX file at the site."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from omnifed.data.prepare import SiteData
from omnifed.errors import OmniFedError
from omnifed.federation.replies import ExportReply
from omnifed.federation.tasks import ExportTask, FitTask
from omnifed.files import write_json
from omnifed.trust.identity import SiteIdentity
from omnifed.trust.manifest import ORIGIN, Origin, manifest_path, origin_of
from omnifed_client.store import SiteStore
from omnifed_client.student import student_from


def model_path(store: SiteStore, arm: str) -> Path:
    """Where the site finds the model of an arm."""
    return store.own / "models" / arm / "model.onnx"


def note_origin(task: FitTask, store: SiteStore) -> None:
    """Notes for a later manifest what a round promised. An arm promises what the weakest of its rounds did.

    Args:
        task: a round that was trained.
        store: of the task's campaign.
    """
    arm = _arm(store, task.arm)
    dp = task.privacy.dp
    now = Origin(
        campaign=task.campaign,
        arm=task.arm,
        mode=task.privacy.mode,
        epsilon=dp.epsilon if dp else None,
        delta=(dp.delta or None) if dp else None,
    )
    if (arm / ORIGIN).is_file():
        now = _weaker(origin_of(arm), now)
    write_json(arm / ORIGIN, now.model_dump(mode="json"), mode=0o600)


def export(task: ExportTask, data: SiteData, store: SiteStore, identity: SiteIdentity | None = None) -> ExportReply:
    """Exports the adopted student after comparing it with the file on the site's own images.

    Args:
        task: which arm, how many images.
        data: validation cases are compared, or test or training ones where there are none; an arm with differential
            privacy never looks at training cases again, as what is compared leaves the site.
        store: holds the adopted student and gets the file.
        identity: signs the file's manifest; None for a site that has joined no federation.

    Raises:
        OmniFedError: OF514 if nothing was adopted, OF534 without an image, OF601 or OF606 if the file is not the
            student.
    """
    # The exporter is heavy and few sites need it often: a worker that trains must not carry it.
    from omnifed.export.onnx import export_student
    from omnifed.export.signed import sign

    model = student_from(store.adopted(task.arm)[0], task.student, data.config.spec)
    origin = origin_of(_arm(store, task.arm))
    images = _images(data, private=origin.epsilon is not None)[: task.cases]
    shape = (int(images.shape[2]), int(images.shape[3]))
    config = data.config.model_copy(update={"image_size": shape})
    samples = torch.from_numpy(np.asarray(images, np.float32))
    path = model_path(store, task.arm)
    manifest_path(path).unlink(missing_ok=True)
    report = export_student(model, config, path, samples)
    if identity is not None:
        sign(path, path.read_bytes(), identity, origin)
    return ExportReply(
        id=task.id, site=data.config.name, bytes=report.bytes, max_delta=report.max_delta, sha256=report.sha256
    )


def _arm(store: SiteStore, arm: str) -> Path:
    return store.own / "arms" / arm


def _weaker(a: Origin, b: Origin) -> Origin:
    private = a.epsilon is not None and b.epsilon is not None
    return b.model_copy(
        update={
            "mode": a.mode if a.mode == b.mode else "mean",
            "epsilon": max(a.epsilon or 0, b.epsilon or 0) if private else None,
            "delta": max(a.delta or 0, b.delta or 0) or None if private else None,
        }
    )


def _images(data: SiteData, *, private: bool) -> np.ndarray:
    for split in (data.val, data.test) if private else (data.val, data.test, data.train):
        if len(split):
            return split.images
    raise OmniFedError(
        "OF534",
        "An exported model is compared with the student on at least one image of the site.",
        seen="no image in any split",
        remedy="Give the site at least one validation, test or training image.",
    )
