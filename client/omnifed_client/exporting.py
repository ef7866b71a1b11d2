"""The model that a site would deploy, as one ONNX file at the site."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from omnifed.data.prepare import SiteData
from omnifed.errors import OmniFedError
from omnifed.federation.tasks import ExportReply, ExportTask
from omnifed_client.store import SiteStore
from omnifed_client.student import student_from


def model_path(store: SiteStore, arm: str) -> Path:
    """Where the site finds the model of an arm."""
    return store.own / "models" / arm / "model.onnx"


def export(task: ExportTask, data: SiteData, store: SiteStore) -> ExportReply:
    """Exports the adopted student after comparing it with the file on the site's own images.

    Args:
        task: which arm, how many images.
        data: validation cases are compared, or test or training ones where there are none.
        store: holds the adopted student and gets the file.

    Raises:
        OmniFedError: OF514 if nothing was adopted, OF534 without an image, OF601 or OF606 if the file is not the
            student.
    """
    # The exporter is heavy and few sites need it often: a worker that trains must not carry it.
    from omnifed.export.onnx import export_student

    model = student_from(store.adopted(task.arm)[0], task.student, data.config.spec)
    images = _images(data)[: task.cases]
    shape = (int(images.shape[2]), int(images.shape[3]))
    config = data.config.model_copy(update={"image_size": shape})
    samples = torch.from_numpy(np.asarray(images, np.float32))
    report = export_student(model, config, model_path(store, task.arm), samples)
    return ExportReply(
        id=task.id, site=data.config.name, bytes=report.bytes, max_delta=report.max_delta, sha256=report.sha256
    )


def _images(data: SiteData) -> np.ndarray:
    for split in (data.val, data.test, data.train):
        if len(split):
            return split.images
    raise OmniFedError(
        "OF534",
        "An exported model is compared with the student on at least one image of the site.",
        seen="no image in any split",
        remedy="Give the site at least one validation, test or training image.",
    )
