"""From probes to a profile."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from probe_files import OPTIONS, SITE, SIZE, finished, write_files

from omnifed.devices import bench, measuring
from omnifed.devices.latency import TIME_PATTERN
from omnifed.devices.machine import Machine
from omnifed.devices.measuring import measure_probes, measured_profile, write_probes
from omnifed.errors import OmniFedError
from omnifed.export.session import load
from omnifed.models.base import SiteSpec
from omnifed.models.scaling import architecture_key
from omnifed.models.spec import StudentSpec


def test_an_interrupted_run_measures_only_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "MOST_VARIATION", 10.0)  # whether this machine is quiet is not what is asked
    paths, kept = write_files(tmp_path / "probes", 6), tmp_path / "kept.json"
    kept.write_text(finished(paths[:5]))
    before = json.loads(kept.read_text())
    model = measure_probes(paths, engine="ort", threads=1, kept=kept)
    after = json.loads(kept.read_text())
    assert len(after) == 6
    assert {key: after[key] for key in before} == before
    (new,) = (row for key, row in after.items() if key not in before)
    assert new["network"] == architecture_key(OPTIONS.model_copy(update={"alpha": 1.38, "beta": 1.6}))
    assert new["size"] == list(SIZE)
    assert [row.p50_ms for row in model.networks] == [row["p50_ms"] for row in after.values()]


def test_a_network_that_varied_is_measured_again_after_the_others(tmp_path: Path, monkeypatch) -> None:
    paths, kept = write_files(tmp_path / "probes", 5), tmp_path / "kept.json"
    figures = dict(zip(paths, measuring.KEPT.validate_json(finished(paths)).values(), strict=True))
    asked: list[str] = []

    def disturbed(path: Path, **options: object):
        asked.append(path.name)
        if path == paths[1] and asked.count(path.name) < 2:
            raise bench.unsteady(figures[path])
        return figures[path]

    monkeypatch.setattr(measuring, "bench", disturbed)
    measure_probes(paths, engine="ort", threads=1, kept=kept)
    assert asked == ["00.onnx", "01.onnx", "02.onnx", "03.onnx", "04.onnx", "01.onnx"]
    assert len(json.loads(kept.read_text())) == 5


def test_all_kept_is_fitted_without_measuring(tmp_path: Path) -> None:
    paths, kept = write_files(tmp_path / "probes", 10), tmp_path / "kept.json"
    kept.write_text(finished(paths, time=3 * TIME_PATTERN))
    told: list[tuple] = []
    model = measure_probes(paths, engine="ort", threads=1, kept=kept, progress=lambda *share: told.append(share))
    assert told == []
    assert model.dense_ms_per_gmac == pytest.approx(3 * TIME_PATTERN[0])
    assert model.left_out_error == pytest.approx(0, abs=1e-9)
    profile = measured_profile("here", Machine("abacus, 2 cores", 2, 512.0), model)
    assert (profile.memory_mib, profile.evidence, profile.threads, profile.engine) == (512, "measured", 1, "ort, fp32")
    assert profile.estimate(OPTIONS, SITE, SIZE) == model.predict(OPTIONS, SITE, SIZE)


def test_files_that_do_not_belong_together(tmp_path: Path) -> None:
    few = write_files(tmp_path / "few", 4)
    mixed = write_files(tmp_path / "stem2", 5) + write_files(tmp_path / "stem1", 1, StudentSpec(stem_stride=1))
    for paths, seen in ((few, "4 ONNX files of 1 kinds"), (mixed, "6 ONNX files of 2 kinds")):
        with pytest.raises(OmniFedError, match=seen) as caught:
            measure_probes(paths, engine="ort", threads=1, kept=tmp_path / "k")
        assert caught.value.code == "OF712"


def test_a_probe_is_a_real_export_and_is_made_once(tmp_path: Path) -> None:
    student = StudentSpec(alpha=0.6, beta=0.5, stem_stride=2)
    (path,) = write_probes(tmp_path, [student], SiteSpec(3, 2), 32)
    session = load(path, threads=1)
    assert session.card.student == student
    assert (session.shape, session.classes) == ((3, 32, 32), 2)
    made = path.stat().st_mtime_ns
    assert write_probes(tmp_path, [student], SiteSpec(3, 2), 32) == (path,)
    assert path.stat().st_mtime_ns == made


def test_sizes_that_no_site_has_and_a_machine_without_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OmniFedError, match="image_size") as caught:
        write_probes(tmp_path, [StudentSpec()], SITE, 40)
    assert caught.value.code == "OF102"
    monkeypatch.setattr(measuring, "find_spec", lambda name: None)
    with pytest.raises(OmniFedError, match="--models DIR") as caught:
        write_probes(tmp_path, [StudentSpec()], SITE, 32)
    assert caught.value.code == "OF713"
