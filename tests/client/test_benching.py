"""A site's own measurements: real exports, real child processes, kept so that nothing is measured twice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_executor import STUDENT, data  # noqa: F401 - data is a fixture

from omnifed.data.prepare import SiteData
from omnifed.devices import bench as bench_module
from omnifed.devices.measurement import Measurement
from omnifed.errors import OmniFedError
from omnifed.federation.replies import BenchReply, FailedReply
from omnifed.federation.tasks import BenchTask
from omnifed.models.scaling import architecture_key
from omnifed.models.spec import StudentSpec
from omnifed_client.executor import SiteExecutor
from omnifed_client.store import SiteStore

TASK = BenchTask(id="c.bench.squares", campaign="c", students=(STUDENT,))
SAME = STUDENT.model_copy(update={"alpha": 0.61})
"""Other numbers, the same network."""
KEPT = Measurement(
    network="n", size=(32, 32), warmups=1, runs=9, p50_ms=2.0, p95_ms=3.0, cpu_ms=2.0, variation=0.01, load_ms=1.0,
    peak_mib=50.0,
)  # fmt: skip


def calls(monkeypatch: pytest.MonkeyPatch, answer) -> list[dict]:
    """Replaces the measurement alone: the export before it and what is kept after it are real."""
    seen: list[dict] = []

    def bench(model: Path, **asked: object) -> Measurement:
        assert model.is_file()
        seen.append(asked)
        return answer(asked)

    monkeypatch.setattr(bench_module, "bench", bench)
    return seen


def test_a_student_is_measured_once_for_all_tasks_and_campaigns(
    data: SiteData,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A busy machine may vary by more than a measurement may: here only what becomes of it is looked at.
    real, told = bench_module.bench, []
    monkeypatch.setattr(bench_module, "bench", lambda model, **asked: real(model, **asked, accept_variation=True))
    site = SiteExecutor(data, tmp_path, progress=lambda done, total, text: told.append((done, total, text)))
    reply, up = site.execute(TASK, {})
    assert isinstance(reply, BenchReply), reply
    assert up == {}
    (measured,) = reply.measurements
    assert (measured.network, measured.size, measured.engine) == (architecture_key(STUDENT), (32, 32), "ort")
    assert (measured.threads, measured.evidence) == (1, "measured")
    assert 0 < measured.p50_ms <= measured.p95_ms
    assert reply.memory_mib > 0
    assert told[0] == (0, 1, f"{architecture_key(STUDENT)} 0%")
    assert told[-1][:2] == (1, 1)
    assert str(tmp_path) not in reply.model_dump_json()
    assert [path.suffix for path in (tmp_path / "bench").iterdir()] == [".json"]  # no model is left
    seen = calls(monkeypatch, lambda asked: pytest.fail("measured twice"))
    other = TASK.model_copy(update={"id": "d.bench.squares", "campaign": "d", "students": (SAME, STUDENT)})
    again, _ = SiteExecutor(data, tmp_path).execute(other, {})
    assert isinstance(again, BenchReply)
    assert again.measurements == (measured, measured)
    assert seen == []


def test_another_engine_or_number_of_threads_is_another_measurement(
    data: SiteData,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("omnifed_client.benching._export", lambda student, data, path: path.write_bytes(b"onnx"))
    (tmp_path / "bench").mkdir()
    seen = calls(monkeypatch, lambda asked: KEPT.model_copy(update={"threads": asked["threads"]}))
    site = SiteExecutor(data, tmp_path)
    for i, changes in enumerate([{}, {"threads": 2}, {"engine": "openvino"}, {}]):
        site.execute(TASK.model_copy(update={"id": f"t{i}", **changes}), {})
    assert [(asked["engine"], asked["threads"]) for asked in seen] == [("ort", 1), ("ort", 2), ("openvino", 1)]


def test_an_unsteady_measurement_is_made_again_after_the_others(
    data: SiteData,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exported: list[str] = []

    def export(student: StudentSpec, data: SiteData, path: Path) -> None:
        exported.append(architecture_key(student))
        path.write_bytes(b"onnx")

    monkeypatch.setattr("omnifed_client.benching._export", export)
    (tmp_path / "bench").mkdir()
    wide = STUDENT.model_copy(update={"beta": 1.0})

    def answer(asked: dict) -> Measurement:
        if len(seen) == 1:
            raise OmniFedError("OF701", "A measurement must not vary.", seen="40 %")
        return KEPT.model_copy(update={"network": asked["network"]})

    seen = calls(monkeypatch, answer)
    reply, _ = SiteExecutor(data, tmp_path).execute(TASK.model_copy(update={"students": (STUDENT, wide)}), {})
    assert isinstance(reply, BenchReply), reply
    keys = [architecture_key(student) for student in (STUDENT, wide)]
    assert [measured.network for measured in reply.measurements] == keys
    assert [asked["network"] for asked in seen] == [keys[0], keys[1], keys[0]]
    assert exported == keys  # once each
    assert not list((tmp_path / "bench").glob("*.onnx"))


def test_what_was_measured_before_a_failure_is_kept(
    data: SiteData,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("omnifed_client.benching._export", lambda student, data, path: path.write_bytes(b"onnx"))
    (tmp_path / "bench").mkdir()
    wide = STUDENT.model_copy(update={"beta": 1.0})
    steady = [False]

    def answer(asked: dict) -> Measurement:
        if asked["network"] == architecture_key(wide) and not steady[0]:
            raise OmniFedError("OF704", "The process must live until it has measured.")
        return KEPT.model_copy(update={"network": asked["network"]})

    seen = calls(monkeypatch, answer)
    task = TASK.model_copy(update={"students": (STUDENT, wide)})
    reply, _ = SiteExecutor(data, tmp_path).execute(task, {})
    assert isinstance(reply, FailedReply)
    assert reply.code == "OF704"
    assert not list((tmp_path / "bench").glob("*.onnx"))
    steady[0] = True
    reply, _ = SiteExecutor(data, tmp_path).execute(task, {})
    assert isinstance(reply, BenchReply)
    assert [m.network for m in reply.measurements] == [architecture_key(STUDENT), architecture_key(wide)]
    assert [asked["network"] for asked in seen] == [architecture_key(s) for s in (STUDENT, wide, wide)]


def test_a_damaged_measurement_is_made_again(
    data: SiteData,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("omnifed_client.benching._export", lambda student, data, path: path.write_bytes(b"onnx"))
    (tmp_path / "bench").mkdir()
    seen = calls(monkeypatch, lambda asked: KEPT)
    for i, text in enumerate(["", "{", json.dumps({"network": "n"})]):
        for path in (tmp_path / "bench").glob("*.json"):
            path.write_text(text)
        SiteExecutor(data, tmp_path).execute(TASK.model_copy(update={"id": f"t{i}"}), {})
    assert len(seen) == 3
    assert Measurement.model_validate_json(next((tmp_path / "bench").glob("*.json")).read_bytes()) == KEPT
    assert SiteStore(tmp_path).measurement("a") != SiteStore(tmp_path).measurement("b")
    assert SiteStore(tmp_path, "c").measurement("a") == SiteStore(tmp_path).measurement("a")
