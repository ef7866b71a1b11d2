"""A public teacher under differential privacy: what it may teach, and what nobody learns of the training images."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_dp_round import STUDENT, fit_task, ledger_of, refused, trained
from test_executor import SITE, squares

from omnifed.data.prepare import SiteData
from omnifed.distill.spec import PUBLIC_SCALES, DistillSpec
from omnifed.export.onnx import export_student
from omnifed.federation.replies import FailedReply, Reply, TeachReply
from omnifed.federation.tasks import TeachTask
from omnifed.models.registry import build_student
from omnifed.teachers.spec import TeacherSpec
from omnifed_client.executor import SiteExecutor
from omnifed_client.store import SiteStore

DISTILL = DistillSpec(weights={"logits": 1.5}, scales=PUBLIC_SCALES)


@pytest.fixture(scope="module")
def data() -> SiteData:
    return SiteData(SITE, squares(12, 1), squares(2, 2), squares(2, 4), (), ())


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> TeacherSpec:
    path = tmp_path_factory.mktemp("public") / "teacher.onnx"
    sized = SITE.model_copy(update={"image_size": (32, 32)})
    export_student(build_student(STUDENT, SITE.spec, seed=9), sized, path, torch.zeros(1, 1, 32, 32))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return TeacherSpec(kind="onnx", checkpoint=str(path), sha256=digest, public=True)


def teach(site: SiteExecutor, teacher: TeacherSpec) -> Reply:
    return site.execute(TeachTask(id="t", campaign="one", teacher=teacher), {})[0]


def test_a_round_learns_from_it_and_tells_nothing_of_the_patients(
    data: SiteData, teacher: TeacherSpec, tmp_path: Path
) -> None:
    site = SiteExecutor(data, tmp_path)
    asked = fit_task(arm="omnikd", teacher=teacher, distill=DISTILL)
    assert refused(site, asked) == "OF510"
    assert isinstance(teach(site, teacher), TeachReply)
    reply, up = trained(site, asked)
    assert (reply.n, reply.loss, reply.scales) == (12, {}, {})
    assert up
    assert [(r.arm, r.round, r.steps) for r in ledger_of(site).releases] == [("omnikd", 0, 2)]
    # It does look at the teacher's maps.
    for path in (site.store.teacher_folder(teacher) / "cache").iterdir():
        path.unlink()
    failed, _ = site.execute(fit_task(1, arm="omnikd", teacher=teacher, distill=DISTILL), {})
    assert isinstance(failed, FailedReply)
    assert failed.code == "OF325"


def test_teaching_tells_nothing_of_the_training_images_but_their_number(
    data: SiteData, teacher: TeacherSpec, tmp_path: Path
) -> None:
    replies = []
    for name, seed in (("one", 1), ("other", 7)):
        site = SiteExecutor(replace(data, train=squares(12, seed)), tmp_path / name)
        reply = teach(site, teacher)
        assert isinstance(reply, TeachReply), reply
        replies.append(reply.model_copy(update={"seconds": 0.0}))
        lesson = json.loads((site.store.teacher_folder(teacher) / "lesson.json").read_bytes())
        assert (lesson["views"], lesson["joint_flips"], lesson["feature_channels"]) == (1, False, {})
    assert replies[0] == replies[1]
    assert (replies[0].cached, replies[0].flip_error, replies[0].joint_flips) == (12, 0.0, False)


@pytest.mark.parametrize(
    "distill",
    [
        DistillSpec(weights={"logits": 1.5}),
        DistillSpec(weights={"logits": 1.5}, scales={"logits": 0.4}),
        DistillSpec(weights={"logits": 1.5, "relation": 0.5}, scales=PUBLIC_SCALES),
        DistillSpec(scales=PUBLIC_SCALES),
    ],
    ids=["measured", "another scale", "relation", "all terms"],
)
def test_what_else_omnikd_could_do_is_refused(
    data: SiteData, teacher: TeacherSpec, tmp_path: Path, distill: DistillSpec
) -> None:
    assert refused(SiteExecutor(data, tmp_path), fit_task(teacher=teacher, distill=distill)) == "OF850"


def test_a_teacher_that_is_not_public_is_refused(data: SiteData, teacher: TeacherSpec, tmp_path: Path) -> None:
    site = SiteExecutor(data, tmp_path)
    for own in (None, TeacherSpec(), teacher.model_copy(update={"public": False})):
        assert refused(site, fit_task(teacher=own, distill=DISTILL)) == "OF850"


def test_what_the_site_made_itself_is_no_public_teacher(data: SiteData, teacher: TeacherSpec, tmp_path: Path) -> None:
    own = tmp_path / "campaigns" / "one" / "models" / "fedavg" / "model.onnx"
    own.parent.mkdir(parents=True)
    own.write_bytes(Path(teacher.checkpoint).read_bytes())
    (tmp_path / "elsewhere").symlink_to(own)
    copied = Path(teacher.checkpoint)  # the same bytes outside of the state folder, as a model in use lies
    for path in (own, own.parent / ".." / "fedavg" / "model.onnx", tmp_path / "elsewhere", copied):
        reply = teach(SiteExecutor(data, tmp_path), teacher.model_copy(update={"checkpoint": str(path)}))
        assert isinstance(reply, FailedReply)
        assert reply.code == "OF856"
        assert str(tmp_path) not in reply.model_dump_json()


def test_a_teacher_of_a_former_release_is_found_again_and_a_public_one_has_its_own_folder(
    teacher: TeacherSpec, tmp_path: Path
) -> None:
    store = SiteStore(tmp_path)
    assert store.teacher_folder(TeacherSpec()).name == "sam-tiny-f990048ff7234fbc"
    own = teacher.model_copy(update={"public": False})
    assert store.teacher_folder(own) != store.teacher_folder(teacher)
