from __future__ import annotations

from typer.testing import CliRunner

from omnifed.cli.app import app
from omnifed.evaluation.tables import MetricRow, write_metrics


def test_report_builds_the_page_and_prints_its_path(tmp_path):
    write_metrics(tmp_path / "metrics.csv", [MetricRow("local", "a", "test", "mean", "dice", 0.5, 0.4, 0.6, 9)])
    result = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert result.exit_code == 0
    assert result.output.strip() == str(tmp_path / "report.html")
    assert "0.400 to 0.600" in (tmp_path / "report.html").read_text()


def test_a_folder_without_a_run_is_a_numbered_error(tmp_path):
    result = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert result.exit_code != 0
    assert result.exception is not None
    assert "OF422" in str(result.exception)
