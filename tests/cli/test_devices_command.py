"""`omnifed devices` as a user runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "devices"))
from probe_files import OPTIONS, SITE, SIZE, finished, write_files

from omnifed.devices.latency import TIME_PATTERN
from omnifed.devices.profile import load_profile
from omnifed.models.base import SiteSpec
from omnifed.models.spec import StudentSpec

HEAVY = "print({'torch', 'scipy', 'monai', 'pymoo', 'botorch'} & set(sys.modules))"


@pytest.fixture
def omnifed(tmp_path: Path):
    env = os.environ | {"XDG_CONFIG_HOME": str(tmp_path / "config"), "XDG_CACHE_HOME": str(tmp_path / "cache")}

    def run(*args: str, code: str = "from omnifed.cli.app import app; app(sys.argv[1:])"):
        command = [sys.executable, "-c", f"import sys; {code}", *args]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, env=env)

    return run


def test_list_names_every_device_with_its_evidence(omnifed) -> None:
    done = omnifed("devices", "list")
    assert done.returncode == 0, done.stderr
    assert "raspberry-pi-4" in done.stdout
    rows = {row["name"]: row for row in json.loads(omnifed("devices", "list", "--json").stdout)}
    assert len(rows) == 6
    assert (rows["coral-dev-board"]["kind"], rows["coral-dev-board"]["evidence"]) == ("tpu", "modelled")
    assert "no provider in ONNX Runtime" in rows["coral-dev-board"]["note"]


def test_show_gives_sources_and_estimates(omnifed) -> None:
    done = omnifed("devices", "show", "raspberry-pi-4", "--size", "128")
    assert done.returncode == 0, done.stderr
    for text in ("STREAM", "112.6 ms", "omnisegnet:accurate", "modelled", "128 x 128 x 1"):
        assert text in done.stdout
    facts = json.loads(omnifed("devices", "show", "jetson-nano", "--student", "omnisegnet:compact", "--json").stdout)
    want = load_profile("jetson-nano").estimate(StudentSpec.parse("omnisegnet:compact"), SiteSpec(1, 2), (256, 256))
    assert facts["estimates"] == {"omnisegnet:compact": want.model_dump()}


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (("show", "toaster"), "OF710"),
        (("show", "orin-nano", "--size", "100"), "OF303"),
        (("show", "orin-nano", "--student", "omnisegnet:tiny"), "OF301"),
        (("measure", "--models", "/nowhere"), "OF712"),
    ],
)
def test_errors_have_a_number_and_no_traceback(omnifed, args, code) -> None:
    done = omnifed("devices", *args)
    assert done.returncode == 2
    assert code in done.stderr
    assert "Traceback" not in done.stderr


def test_measure_writes_a_profile_that_is_then_known_by_name(omnifed, tmp_path: Path) -> None:
    paths = write_files(tmp_path / "probes", 10)
    folder = tmp_path / "config" / "omnifed" / "devices"
    folder.mkdir(parents=True)
    kept = folder / "bench-top.measured.json"
    kept.write_text(finished(paths, time=2 * TIME_PATTERN))  # interrupted after the last measurement
    done = omnifed("devices", "measure", "--name", "bench-top", "--models", str(tmp_path / "probes"))
    assert done.returncode == 0, done.stderr
    assert "Latency model of 10 networks, 32 x 32: mean error 0.0%, each left out 0.0%" in done.stdout
    assert not kept.exists()
    profile = load_profile(folder / "bench-top.toml")
    assert profile.latency.dense_ms_per_gmac == pytest.approx(2 * TIME_PATTERN[0])
    assert profile.estimate(OPTIONS, SITE, SIZE).evidence == "measured"
    assert "bench-top" in omnifed("devices", "list").stdout
    assert "Latency model of 10 networks" in omnifed("devices", "show", "bench-top").stdout


def test_nothing_of_it_needs_torch_or_scipy(omnifed) -> None:
    done = omnifed(code=f"import omnifed.cli.app, omnifed.devices.measuring, omnifed.devices.profile; {HEAVY}")
    assert done.stdout.strip() == "set()", done.stderr
