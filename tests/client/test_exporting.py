"""A site's own ONNX file: exported from what the gate adopted, told about in figures alone."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_executor import SITE, STUDENT, data, fit_task, squares  # noqa: F401 - data is a fixture

from omnifed.data.prepare import SiteData
from omnifed.export.verification import verify_model
from omnifed.federation.replies import ExportReply, FailedReply
from omnifed.federation.tasks import ExportTask
from omnifed.privacy.spec import DPSpec, PrivacySpec
from omnifed.trust.anchor import find_anchor
from omnifed.trust.authority import admit, found
from omnifed.trust.enrolment import enrol, join
from omnifed.trust.manifest import ORIGIN, manifest_path, origin_of, read_manifest
from omnifed_client.executor import SiteExecutor
from omnifed_client.exporting import note_origin
from omnifed_client.store import SiteStore

TASK = ExportTask(id="c.a.export.squares", arm="a", student=STUDENT, cases=2)


def test_the_adopted_student_becomes_a_file_that_stays(data: SiteData, tmp_path: Path) -> None:  # noqa: F811
    executor = SiteExecutor(data, tmp_path)
    executor.execute(fit_task(), {})
    beside = tmp_path / "models" / "a" / "model.onnx.manifest.json"
    beside.parent.mkdir(parents=True)
    beside.write_text("of a model before, when the site had an identity")
    reply, state = executor.execute(TASK, {})
    assert not beside.exists()
    assert isinstance(reply, ExportReply), reply
    assert state == {}
    file = (tmp_path / "models" / "a" / "model.onnx").read_bytes()
    assert (reply.bytes, reply.sha256) == (len(file), hashlib.sha256(file).hexdigest())
    assert 0 <= reply.max_delta < 1e-3
    assert str(tmp_path) not in reply.model_dump_json()


def test_a_site_that_has_joined_signs_its_export_with_what_its_rounds_promised(
    data: SiteData,  # noqa: F811
    tmp_path: Path,
) -> None:
    coordinator = found(tmp_path / "coordinator", "net", "127.0.0.1:9092")
    folder = tmp_path / "state" / "identity"
    identity = join(folder, admit(coordinator.folder, enrol(folder, "squares")))
    executor = SiteExecutor(data, tmp_path / "state", identity=identity)
    executor.execute(fit_task(), {})
    reply, _ = executor.execute(TASK, {})
    assert isinstance(reply, ExportReply), reply
    path = tmp_path / "state" / "models" / "a" / "model.onnx"
    said = read_manifest(manifest_path(path))
    assert (said.sha256, said.site, said.federation) == (reply.sha256, "squares", "net")
    assert (said.origin.arm, said.origin.mode, said.origin.epsilon) == ("a", "mean", None)
    assert verify_model(path, anchor=find_anchor(kit=folder)).result == "verified"


def test_an_arm_promises_what_its_weakest_round_did(tmp_path: Path) -> None:
    store = SiteStore(tmp_path)
    for mode, epsilon, expected in (
        ("private", 2.0, ("private", 2.0)),
        ("private", 3.0, ("private", 3.0)),
        ("robust", 1.0, ("mean", 3.0)),
        ("private", None, ("mean", None)),
        ("private", 1.0, ("mean", None)),
    ):
        dp = None if epsilon is None else DPSpec(epsilon=epsilon)
        privacy = PrivacySpec(mode=mode, threshold=2, sites=("a", "b"), dp=dp)
        note_origin(fit_task().model_copy(update={"privacy": privacy}), store)
        noted = origin_of(tmp_path / "arms" / "a")
        assert (noted.mode, noted.epsilon) == expected


def test_what_was_never_trained_is_not_exported(data: SiteData, tmp_path: Path) -> None:  # noqa: F811
    reply, _ = SiteExecutor(data, tmp_path).execute(TASK, {})
    assert isinstance(reply, FailedReply)
    assert reply.code == "OF514"
    assert not (tmp_path / "models").exists()


def test_a_site_without_any_image_says_so(data: SiteData, tmp_path: Path) -> None:  # noqa: F811
    SiteExecutor(data, tmp_path).execute(fit_task(), {})
    nothing = squares(0, 9)
    assert len(nothing) == 0
    empty = replace(data, train=nothing, val=nothing, test=nothing)
    reply, _ = SiteExecutor(empty, tmp_path).execute(TASK, {})
    assert isinstance(reply, FailedReply)
    assert reply.code == "OF534"


def test_an_arm_with_differential_privacy_never_tells_how_its_file_does_on_training_images(
    data: SiteData,  # noqa: F811
    tmp_path: Path,
) -> None:
    SiteExecutor(data, tmp_path).execute(fit_task(), {})
    training = replace(data, val=squares(0, 9), test=squares(0, 9))
    assert isinstance(SiteExecutor(training, tmp_path).execute(TASK, {})[0], ExportReply)
    (tmp_path / "arms" / "a" / ORIGIN).unlink()
    note_origin(fit_task().model_copy(update={"privacy": PrivacySpec(dp=DPSpec())}), SiteStore(tmp_path))
    reply, _ = SiteExecutor(training, tmp_path).execute(TASK.model_copy(update={"id": "c.a.again"}), {})
    assert isinstance(reply, FailedReply)
    assert reply.code == "OF534"


@pytest.mark.parametrize("cases", [0, 9])
def test_a_coordinator_cannot_ask_for_more_images(cases: int) -> None:
    with pytest.raises(ValueError, match="cases"):
        ExportTask(id="x", arm="a", student=STUDENT, cases=cases)


def test_the_images_compared_are_the_sites_own(data: SiteData) -> None:  # noqa: F811
    from omnifed_client.exporting import _images

    assert np.array_equal(_images(data, private=False), data.val.images)
    assert SITE.name == data.config.name
