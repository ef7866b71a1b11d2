"""`omnifed-client epsilon` over a ledger made by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from omnifed.privacy.dp.accounting import epsilon
from omnifed.privacy.dp.ledger import FOLDER, Ledger
from omnifed_client.cli import app

ABOUT = {"sigma": 4.0, "rate": 1.0, "steps": 4, "delta": 12**-1.1, "clip": 1.0}
PATIENTS = tuple(f"patient-{number}" for number in range(12))


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "state" / FOLDER)


def said(tmp_path: Path) -> str:
    result = CliRunner().invoke(
        app, ["epsilon", "--site", "ct", "--state", str(tmp_path / "state")], env={"COLUMNS": "160"}
    )
    assert result.exit_code == 0, result.output
    return result.output


def test_an_untouched_site_has_spent_nothing(tmp_path: Path) -> None:
    assert "Nothing was spent" in said(tmp_path)


def test_it_says_what_was_spent_by_arm_and_in_all(tmp_path: Path, ledger: Ledger) -> None:
    for campaign, arm, round_ in (("liver", "fedavg", 0), ("liver", "fedavg", 1), ("spleen", "fedbn", 0)):
        ledger.book(PATIENTS, campaign=campaign, arm=arm, round=round_, **ABOUT)
    text = said(tmp_path)
    first, total = epsilon(ledger.releases[:2], 12**-1.1), epsilon(ledger.releases, 12**-1.1)
    assert f"liver     fedavg  2       8      12        4      {first:.2f}" in text
    assert f"12 patients who trained last: epsilon {total:.2f} at delta 0.065; no policy bounds it." in text
    assert "patient-" not in text


def test_it_says_what_the_policy_leaves(tmp_path: Path, ledger: Ledger) -> None:
    ledger.book(PATIENTS, campaign="liver", arm="fedavg", round=0, **ABOUT)
    (tmp_path / "state" / "identity").mkdir()
    (tmp_path / "state" / "identity" / "policy.toml").write_text("epsilon = 6.0\nexpires = 2099-01-01\n")
    left = 6.0 - epsilon(ledger.releases, 12**-1.1)
    assert f"{left:.2f} of 6 left." in said(tmp_path)
