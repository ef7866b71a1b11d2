"""`omnifed audit-privacy`: a client's state folder, a run of two sites, and what is said where it cannot be done."""

from __future__ import annotations

import csv
import json
import stat
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import omnifed.cli.audit_privacy  # noqa: F401  registers the command
from omnifed.cli.root import app
from omnifed.errors import OmniFedError
from omnifed.models.base import SiteSpec
from omnifed.models.registry import build_student
from omnifed.models.spec import StudentSpec
from omnifed.models.weights import to_state
from omnifed.privacy.membership import AUDIT_FILE, Audit
from omnifed.states import add_prefix, write_state
from omnifed_client.store import SiteStore

SPEC = "omnisegnet:alpha=0.6,beta=0.5,stem_stride=2"
TOML = """name = "{name}"
modality = "ct"
channels = 1
image_size = [32, 32]
labels = {{ 0 = "background", 1 = "disc" }}
normalisation = {{ kind = "minmax" }}
mask_values = {{ 255 = 1 }}
splits = {{ val = 0.25, test = 0.25 }}
"""


def invoke(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["audit-privacy", *map(str, arguments)], catch_exceptions=True)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def write_site(folder: Path, name: str, patients: int = 24) -> Path:
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng([len(name)])
    with (folder / "index.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "mask", "patient"])
        for i in range(patients):
            mask = np.kron(rng.integers(0, 2, (4, 4)), np.ones((8, 8)))
            grey = (120 * mask + rng.integers(0, 100, (32, 32))).astype(np.uint8)
            Image.fromarray(grey).save(folder / f"images/{i}.png")
            Image.fromarray((255 * mask).astype(np.uint8)).save(folder / f"images/{i}m.png")
            rows.writerow([f"images/{i}.png", f"images/{i}m.png", f"MUELLER-{i}"])
    (folder / "site.toml").write_text(TOML.format(name=name))
    return folder


def made_student(seed: int) -> dict[str, np.ndarray]:
    return to_state(build_student(StudentSpec.parse(SPEC), SiteSpec(1, 2), seed=seed))


def write_arm(folder: Path, seed: int) -> None:
    """What a client keeps of an arm whose only round was adopted: STATE/campaigns/NAME/arms/ARM."""
    state, store = made_student(seed), SiteStore(folder.parents[3], folder.parents[1].name)
    head = {"adopted_round": 0, "adopted_dice": 0.5, "previous_adopted_round": -1, "scales": {}}
    store.save_round(folder.name, 0, add_prefix("model", state), head)
    store.save_adopted(folder.name, 0, state, 0.5)


@pytest.fixture(scope="module")
def north(tmp_path_factory) -> Path:
    return write_site(tmp_path_factory.mktemp("sites") / "north", "north")


def test_a_state_folder_is_audited_and_nothing_but_figures_is_written(north, tmp_path):
    state = tmp_path / "state"
    write_arm(state / "campaigns/spring/arms/omnikd", 1)
    told = invoke(state, "--data", north, "--student", SPEC)
    text = (state / AUDIT_FILE).read_text()
    audit = Audit.model_validate_json(text)
    assert [(s.site, s.members, s.others, s.references) for s in audit.sites] == [("north", 12, 12, 0)]
    assert [a.name for a in audit.sites[0].attacks] == ["loss", "confidence"]
    assert "MUELLER" not in text + told
    assert str(tmp_path) not in text
    assert f"{audit.sites[0].attacks[0].auc:.2f}" in told
    assert audit.sites[0].verdict in told
    assert (state / "privacy-audit.png").read_bytes().startswith(b"\x89PNG")
    for name in (AUDIT_FILE, "privacy-audit.png"):
        assert stat.S_IMODE((state / name).stat().st_mode) == 0o600


def test_a_reference_adds_the_calibrated_attack(north, tmp_path, monkeypatch):
    """Also: without matplotlib there is no plot, and the user is told what to install."""
    write_arm(tmp_path / "state/campaigns/spring/arms/omnikd", 1)
    write_state(tmp_path / "other.safetensors", made_student(2), {})
    monkeypatch.delitem(sys.modules, "omnifed.privacy.leak_plot", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    options = ("--data", north, "--student", SPEC, "--output", tmp_path / "out")
    told = invoke(tmp_path / "state", *options, "--reference", tmp_path / "other.safetensors", "--json")
    audit = Audit.model_validate_json(told)
    assert [a.name for a in audit.sites[0].attacks] == ["loss", "confidence", "calibrated"]
    assert json.loads(told) == json.loads((tmp_path / "out" / AUDIT_FILE).read_text())
    assert not (tmp_path / "out/privacy-audit.png").exists()


def test_a_run_has_a_row_a_site_and_calibrates_by_its_neighbours(north, tmp_path):
    run, sites = tmp_path / "run", tmp_path / "sites"
    write_site(sites / "north", "north")
    write_site(sites / "few", "few", patients=6)
    (run / "sites/held-out").mkdir(parents=True)
    config = {"student": StudentSpec.parse(SPEC).model_dump(mode="json"), "image_size": 32, "data": str(sites)}
    (run / "config.json").write_text(json.dumps(config))
    (run / "costs.json").write_text(json.dumps({"exported_arm": "fedbn"}))
    for seed, site in enumerate(("north", "few")):
        for arm in ("local", "fedbn"):
            write_arm(run / "sites" / site / "state/campaigns/sim/arms" / arm, seed)
    told = invoke(run)
    audit = Audit.model_validate_json((run / AUDIT_FILE).read_text())
    assert [(s.site, s.arm, len(s.attacks), s.references) for s in audit.sites] == [
        ("few", "fedbn", 0, 1), ("north", "fedbn", 3, 1),
    ]  # fmt: skip
    assert "few: Too few patients" in told
    assert invoke(run, "--site", "north", "--arm", "local", "--json").count('"site"') == 1
    with pytest.raises(OmniFedError, match="OF891"):
        invoke(run, "--site", "few")
    with pytest.raises(OmniFedError, match="OF611"):
        invoke(run, "--arm", "omnikd")


def test_what_is_missing_is_named(north, tmp_path, monkeypatch):
    write_arm(tmp_path / "state/campaigns/spring/arms/omnikd", 1)
    with pytest.raises(OmniFedError, match="OF612"):
        invoke(tmp_path / "state", "--data", north)
    with pytest.raises(OmniFedError, match="OF892"):
        invoke(tmp_path / "state", "--data", north, "--student", "omnisegnet:compact")
    with pytest.raises(OmniFedError, match="OF610"):
        invoke(tmp_path)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(OmniFedError, match="OF890"):
        invoke(tmp_path / "state")
