"""What a site keeps on disk is sealed: no weight lies there in clear, and what lay there in clear is taken over."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from test_executor import STUDENT, TRAIN, data, fit_task  # noqa: F401 - data is a fixture
from test_teacher_stays import TEACHER

import omnifed.training.loop as loop
from omnifed.data.prepare import SiteData
from omnifed.distill.spec import DistillSpec
from omnifed.federation.replies import EvaluateReply, FailedReply, FitReply, TeachReply
from omnifed.federation.tasks import EvaluateTask, TeachTask
from omnifed.states import State, write_state
from omnifed_client.executor import SiteExecutor
from omnifed_client.older import seal_older
from omnifed_client.store import SiteStore


class Killed(BaseException):
    """Ends a task at once, as a killed process would: nothing of ours catches it."""


def kill_at(step: int):
    def progress(done: int, total: int, text: str) -> None:
        if done == step and text.startswith("loss"):
            raise Killed

    return progress


def lies_in_clear(folder: Path, state: State) -> list[str]:
    """Files that hold 64 bytes of the middle of one of the three largest arrays, in half precision or full."""
    arrays = [value for value in state.values() if value.dtype == np.float32 and np.unique(value).size > 32]
    pieces = []
    for value in sorted(arrays, key=lambda value: -value.nbytes)[:3]:
        for kept in (value, value.astype(np.float16)):
            content = np.ascontiguousarray(kept).tobytes()
            middle = len(content) // 2 // 4 * 4
            pieces.append(content[middle : middle + 64])
    found = []
    for path in (path for path in folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        found += [path.name for piece in pieces if piece in content]
    return found


def unseal(store: SiteStore) -> list[Path]:
    """Puts students and replies back as releases left them that did not encrypt."""
    clear = []
    for path in [*store.own.glob("arms/*/*.sealed"), *store.own.glob("replies/*/*.sealed")]:
        state, meta = store.file(path).read()
        name = f"{path.stem}.safetensors"
        if path.parent.parent.name == "replies":
            name, meta = f"{path.stem.rpartition('-')[0]}.safetensors", {**meta, "round": 0}
        elif path == store.fit_checkpoint(path.parent.name, 1):
            name = f"{path.stem}.ckpt"
        clear.append(path.with_name(name))
        write_state(clear[-1], state, meta)
        path.unlink()
    return clear


def test_no_weight_lies_in_clear_after_teaching_and_training(data: SiteData, tmp_path: Path) -> None:  # noqa: F811
    site = SiteExecutor(data, tmp_path)
    assert isinstance(site.execute(TeachTask(id="t", arm="a", teacher=TEACHER), {})[0], TeachReply)
    sent: State = {}
    for round_ in range(2):
        reply, sent = site.execute(fit_task(round_, teacher=TEACHER, distill=DistillSpec()), sent)
        assert isinstance(reply, FitReply), reply
    scored, _ = site.execute(EvaluateTask(id="e", arm="a", student=STUDENT, split="val", adopt=True), {})
    assert isinstance(scored, EvaluateReply), scored
    last = site.store.load_round("a", 1)
    assert last is not None
    names = {path.stem for path in (tmp_path / "arms" / "a").glob("*.sealed")}
    assert {"round-0000", "round-0001", "adopted-0000", "final", "cases-adopted-val"} <= names
    assert lies_in_clear(tmp_path, sent | last[0] | site.store.adopted("a")[0]) == []
    # The search finds what is there: one file in clear is enough.
    write_state(tmp_path / "leak", last[0], {})
    assert set(lies_in_clear(tmp_path, last[0])) == {"leak"}


@pytest.mark.parametrize("what", ["teacher", "student"])
def test_a_killed_fit_leaves_no_weight_in_clear_and_goes_on(
    what: str,
    data: SiteData,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(loop, "CHECKPOINT_SHARE", 1.0)
    longer = TEACHER.model_copy(update={"train": TEACHER.train.model_copy(update={"steps": 4})})
    fit = fit_task().model_copy(update={"train": TRAIN.model_copy(update={"steps": 4})})
    task = TeachTask(id="t", arm="a", teacher=longer) if what == "teacher" else fit
    whole, _ = SiteExecutor(data, tmp_path / "whole").execute(task, {})
    with pytest.raises(Killed):
        SiteExecutor(data, tmp_path / "killed", progress=kill_at(3)).execute(task, {})
    store = SiteStore(tmp_path / "killed")
    place = store.teacher_folder(longer) / "fit.sealed" if what == "teacher" else store.fit_checkpoint("a", 0)
    kept, _ = store.file(place).read()
    assert lies_in_clear(tmp_path / "killed", kept) == []
    steps: list[int] = []
    site = SiteExecutor(data, tmp_path / "killed", progress=lambda done, *_: steps.append(done))
    reply, _ = site.execute(task, {})
    assert steps[0] == 4  # it went on, it did not start again
    assert reply.model_dump(exclude={"seconds"}) == whole.model_dump(exclude={"seconds"})
    assert not place.exists()


def test_a_state_that_lies_in_clear_is_sealed_once_and_no_work_is_lost(
    data: SiteData,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(loop, "CHECKPOINT_SHARE", 1.0)
    first, second = (fit_task(n).model_copy(update={"campaign": "c"}) for n in range(2))
    site = SiteExecutor(data, tmp_path)
    reply, sent = site.execute(first, {})
    with pytest.raises(Killed):
        SiteExecutor(data, tmp_path, progress=kill_at(1)).execute(second, sent)
    store = site.store.of("c")
    checkpoint, adopted = store.fit_checkpoint("a", 1), store.adopted("a")[0]
    clear = unseal(store)
    assert checkpoint.with_suffix(".ckpt") in clear
    assert len(clear) > 3
    assert lies_in_clear(tmp_path, adopted)

    steps: list[int] = []
    again = SiteExecutor(data, tmp_path, progress=lambda done, *_: steps.append(done))
    assert not any(path.exists() for path in clear)
    assert lies_in_clear(tmp_path, adopted) == []
    answered, sent_again = again.execute(first, {})
    assert answered == reply
    assert all(np.array_equal(value, sent[key]) for key, value in sent_again.items())
    assert steps == []  # answered from the store
    done, _ = again.execute(second, sent)
    assert isinstance(done, FitReply)
    assert steps == [2]  # the killed round went on


def test_all_that_derives_from_patients_is_taken_over_and_nothing_else(tmp_path: Path) -> None:
    arm = "campaigns/c/arms/a"
    clear = {
        f"{arm}/round-0000.safetensors": f"{arm}/round-0000.sealed",
        f"{arm}/private/update-0000.safetensors": f"{arm}/private/update-0000.sealed",
        f"{arm}/fit-0001.ckpt": f"{arm}/fit-0001.sealed",
        "campaigns/c/replies/a/fit-ab.safetensors": "campaigns/c/replies/a/fit-ab-0003.sealed",
        "teachers/t/fit.ckpt": "teachers/t/fit.sealed",
    }
    others = ["teachers/t/weights.safetensors", "campaigns/c/models/a/model.onnx", "prepared/k/train.images.npy"]
    halves = [f"{arm}/.round-0001.safetensors.x_1.part", "teachers/t/.fit.ckpt.x_1.part"]
    others.append(f"{arm}/.round-0001.sealed.x_1.part")  # somebody may be writing it
    for name in [*clear, *halves, *others]:
        write_state(tmp_path / name, {"w": np.full(16, 7.0)}, {"name": name, "round": 3})
    store = SiteStore(tmp_path)
    for _ in range(2):
        seal_older(store)
        there = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
        assert there == {*clear.values(), *others, "identity/vault.key", "sealing.lock"}
    for name, sealed in clear.items():
        assert store.file(tmp_path / sealed).read()[1] == {"name": name, "round": 3}


@pytest.mark.parametrize("damage", ["cut", "a bit", "another key", "another round"])
def test_a_state_that_does_not_open_stops_the_round(
    damage: str,
    data: SiteData,  # noqa: F811
    tmp_path: Path,
) -> None:
    site = SiteExecutor(data, tmp_path)
    _, sent = site.execute(fit_task(0), {})
    path = tmp_path / "arms" / "a" / "round-0000.sealed"
    content = bytearray(path.read_bytes())
    if damage == "cut":
        path.write_bytes(content[:-1])
    elif damage == "a bit":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif damage == "another key":
        (tmp_path / "identity" / "vault.key").write_bytes(bytes(32))
    else:
        path.write_bytes((tmp_path / "arms" / "a" / "adopted-0000.sealed").read_bytes())
    reply, up = site.execute(fit_task(1), sent)
    assert isinstance(reply, FailedReply)
    assert (reply.code, up) == ("OF875", {})
    assert str(tmp_path) not in reply.model_dump_json()
    assert not (tmp_path / "arms" / "a" / "round-0001.sealed").exists()


def test_the_identity_may_lie_on_another_disk(data: SiteData, tmp_path: Path) -> None:  # noqa: F811
    other = tmp_path / "other disk"
    other.mkdir()
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "identity").symlink_to(other)
    SiteExecutor(data, tmp_path / "state").execute(fit_task(0), {})
    assert [path.name for path in other.iterdir()] == ["vault.key"]
    # A copy of the state folder's own disk opens nothing.
    (tmp_path / "state" / "identity").unlink()
    task = EvaluateTask(id="e", arm="a", student=STUDENT, split="val")
    reply, _ = SiteExecutor(data, tmp_path / "state").execute(task, {})
    assert isinstance(reply, FailedReply)
    assert reply.code == "OF875"
