"""The teacher, its weights and its maps stay at the site: on disk they are encrypted, and no message can carry them."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Annotated, Literal, Union, get_args, get_origin

import numpy as np
import pytest
from pydantic import BaseModel
from test_executor import STUDENT, data, fit_task  # noqa: F401 - data is a fixture

from omnifed.data.prepare import SiteData
from omnifed.distill.spec import DistillSpec
from omnifed.errors import OmniFedError
from omnifed.federation.replies import EvaluateReply, FailedReply, FitReply, Reply, TeachReply
from omnifed.federation.tasks import EvaluateTask, TeachTask
from omnifed.states import read_sealed
from omnifed.teachers.base import WEIGHTS
from omnifed.teachers.spec import TeacherSpec
from omnifed.training.spec import TrainSpec
from omnifed_client.executor import SiteExecutor

TEACHER = TeacherSpec(
    kind="sam-tiny", size=64, views=1, train=TrainSpec(steps=2, batch_size=2, precision="fp32", schedule="constant")
)
PLAIN = {str, int, float, bool, type(None)}


def leaves(kind: object) -> set[object]:
    """All types that a field of a reply can hold."""
    origin = get_origin(kind)
    if origin is Literal:
        return {type(value) for value in get_args(kind)}
    if origin is Annotated:
        return leaves(get_args(kind)[0])
    if origin in (tuple, dict, Union, types.UnionType):
        return set().union(*(leaves(each) for each in get_args(kind) if each is not Ellipsis))
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return set().union(*(leaves(field.annotation) for field in kind.model_fields.values()))
    return {kind}


def replies() -> tuple[type[BaseModel], ...]:
    return get_args(get_args(Reply)[0])


@pytest.mark.parametrize("reply", replies(), ids=lambda reply: reply.__name__)
def test_no_field_of_a_reply_can_hold_arrays_bytes_or_files(reply: type[BaseModel]) -> None:
    assert leaves(reply) <= PLAIN
    assert reply.model_config["extra"] == "forbid"


def test_a_teach_reply_is_figures_and_a_hash() -> None:
    own = set(TeachReply.model_fields) - {"id", "site", "protocol", "seconds", "kind"}
    assert own == {"teacher_id", "dice", "cached", "cache_bytes", "flip_error", "joint_flips", "scales"}


def test_no_other_kind_of_reply_speaks_of_a_teacher() -> None:
    words = ("teacher", "cache", "maps", "features", "logits")
    speak = {
        reply.__name__ for reply in replies() for name in reply.model_fields if any(word in name for word in words)
    }
    assert speak == {"TeachReply"}


def test_what_the_site_does_with_its_teacher_sends_no_array_but_the_student(
    data: SiteData,  # noqa: F811
    tmp_path: Path,
) -> None:
    site = SiteExecutor(data, tmp_path)
    sent = {}
    reply, sent["teach"] = site.execute(TeachTask(id="t", arm="a", teacher=TEACHER), {})
    assert isinstance(reply, TeachReply), reply
    task = EvaluateTask(id="e", arm="a", student=STUDENT, which="teacher", teacher=TEACHER)
    scored, sent["evaluate"] = site.execute(task, {})
    assert isinstance(scored, EvaluateReply), scored
    fitted, sent["fit"] = site.execute(fit_task(teacher=TEACHER, distill=DistillSpec()), {})
    assert isinstance(fitted, FitReply), fitted
    assert {kind for kind, state in sent.items() if state} == {"fit"}
    folder = site.store.teacher_folder(TEACHER)
    weights, _ = read_sealed(folder / "weights.sealed", site.store.vault, WEIGHTS)
    assert not weights.keys() & sent["fit"].keys()
    # Nothing that tells of patients lies in clear in the teacher's folder, whatever its name.
    largest = max(weights.values(), key=lambda value: value.nbytes)
    clear = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".sealed"]
    assert sorted(path.name for path in clear) == ["fit.json", "lesson.json"]
    piece = np.ascontiguousarray(largest).tobytes()[:64]
    assert not any(piece in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    modes = {path.stat().st_mode & 0o777 for path in folder.rglob("*.sealed")}
    assert modes == {0o600}


def test_a_teacher_that_somebody_changed_is_not_used(data: SiteData, tmp_path: Path) -> None:  # noqa: F811
    site = SiteExecutor(data, tmp_path)
    site.execute(TeachTask(id="t", arm="a", teacher=TEACHER), {})
    path = site.store.teacher_folder(TEACHER) / "weights.sealed"
    bad = bytearray(path.read_bytes())
    bad[len(bad) // 2] ^= 1
    path.write_bytes(bad)
    task = EvaluateTask(id="e", arm="a", student=STUDENT, which="teacher", teacher=TEACHER)
    reply, _ = site.execute(task, {})
    assert isinstance(reply, FailedReply)
    assert reply.code == "OF875"
    assert str(tmp_path) not in reply.model_dump_json()


def test_another_sites_vault_does_not_open_a_copied_folder(data: SiteData, tmp_path: Path) -> None:  # noqa: F811
    site = SiteExecutor(data, tmp_path)
    site.execute(TeachTask(id="t", arm="a", teacher=TEACHER), {})
    (tmp_path / "identity" / "vault.key").unlink()
    path = site.store.teacher_folder(TEACHER) / "weights.sealed"
    with pytest.raises(OmniFedError, match="OF875"):
        read_sealed(path, site.store.vault, WEIGHTS)
