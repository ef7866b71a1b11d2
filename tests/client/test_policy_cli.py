from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from omnifed.errors import OmniFedError
from omnifed.trust.policy import FILE, SIGNATURE
from omnifed.trust.proposal import first_policy
from omnifed_client.cli import app
from omnifed_client.config import ClientConfig
from omnifed_client.state_checks import check_policy

sys.path.insert(0, str(Path(__file__).parents[1] / "trust"))
from made import Made, federation_of


@pytest.fixture(scope="module")
def joined(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return federation_of(tmp_path_factory.mktemp("policy"), ["ct"])


@pytest.fixture
def made(joined: Made) -> Made:
    folder = joined.sites["ct"].folder
    for name in (FILE, SIGNATURE):
        (folder / name).unlink(missing_ok=True)
    return joined


def run(made: Made, *words: str) -> str:
    arguments = ["policy", *words, "--site", "ct", "--state", str(made.state("ct"))]
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    if isinstance(result.exception, OmniFedError):
        return result.exception.code
    assert result.exit_code == 0, result.output
    return result.output


def test_sign_writes_a_policy_where_there_is_none_and_show_says_what_it_means(made: Made) -> None:
    assert run(made, "show") == "OF820"
    said = run(made, "sign")
    assert "in force until" in said
    assert "signed by ct" in said
    shown = run(made, "show")
    assert "max_rounds" in shown
    assert "200" in shown
    assert "two thirds, at least 3" in shown
    assert "in force until" in run(made, "check")


def test_a_changed_file_holds_only_once_it_is_signed(made: Made) -> None:
    run(made, "sign")
    file = made.sites["ct"].folder / FILE
    file.write_text(file.read_text().replace("max_rounds = 200", "max_rounds = 7"))
    assert run(made, "check") == run(made, "show") == "OF820"
    assert "7" in run(made, "sign")
    assert "in force" in run(made, "check")
    file.write_text("expires = 2020-01-01")
    assert run(made, "sign") == "OF821"
    file.write_text("expires = 2099-01-01\nrounds = 1")
    assert run(made, "sign") == "OF102"


def test_the_client_does_not_start_under_a_policy_that_is_not_signed(made: Made) -> None:
    run(made, "sign")
    (made.sites["ct"].folder / SIGNATURE).unlink()
    result = CliRunner().invoke(app, ["--site", "ct", "--data", ".", "--state", str(made.state("ct"))])
    assert isinstance(result.exception, OmniFedError)
    assert result.exception.code == "OF820"
    assert "omnifed-client policy sign" in result.exception.remedy


def test_the_doctor_looks_at_the_policy(made: Made, tmp_path: Path) -> None:
    config = ClientConfig(site="ct", data=Path(), state=made.state("ct"))
    folder = made.sites["ct"].folder
    assert check_policy(config).state == "warn"
    first_policy(folder, made.sites["ct"].key)
    assert check_policy(config).state == "ok"
    soon = datetime.now(UTC).date() + timedelta(days=13)
    (folder / FILE).write_text(f"expires = {soon}")
    finding = check_policy(config)
    assert (finding.state, finding.code) == ("fail", "OF820")
    run(made, "sign")
    finding = check_policy(config)
    assert (finding.state, finding.code) == ("warn", "OF821")
    elsewhere = ClientConfig(site="ct", data=Path(), state=tmp_path)
    assert check_policy(elsewhere).state == "warn"
    assert check_policy(elsewhere.model_copy(update={"insecure": True})).state == "ok"
