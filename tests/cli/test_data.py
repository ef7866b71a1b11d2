import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from omnifed.cli.app import app

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
from made_files import png_site


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    folder = png_site(tmp_path / "site", n=4)
    (folder / "site.toml").unlink()
    return folder


def test_init_then_check(site: Path, tmp_path: Path) -> None:
    made = CliRunner().invoke(app, ["init-site", str(site)])
    assert made.exit_code == 0, made.output
    assert "labels background, class-1" in made.output
    result = CliRunner().invoke(app, ["check", str(site)])
    assert result.exit_code == 0, result.output
    assert "4 rows, 4 slices of 4 patients: 4 with a mask" in result.output
    assert (tmp_path / "contact-sheet-site.png").is_file()


def test_json_is_all_that_is_printed_and_the_exit_code_follows_the_limit(site: Path, tmp_path: Path) -> None:
    (site / "m0.png").unlink()
    result = CliRunner().invoke(app, ["check", str(site), "--json", "--sheet", str(tmp_path / "s.png")])
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert report["ok"] is False
    assert report["skipped"][0]["code"] == "OF218"
    assert (tmp_path / "s.png").is_file()


def test_help_has_examples() -> None:
    for command in ("init-site", "check"):
        assert "Example" in CliRunner().invoke(app, [command, "--help"]).output
