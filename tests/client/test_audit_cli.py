from __future__ import annotations

import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from omnifed.errors import OmniFedError
from omnifed.trust.audit import AuditLog
from omnifed_client.cli import app
from omnifed_client.config import ClientConfig
from omnifed_client.state_checks import check_audit
from omnifed_server.app import keep_anchor

sys.path.insert(0, str(Path(__file__).parents[1] / "trust"))
from made import Made, federation_of


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return federation_of(tmp_path, ["ct"])


def run(made: Made, *words: str) -> str:
    arguments = ["audit", *words, "--site", "ct", "--state", str(made.state("ct"))]
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    if isinstance(result.exception, OmniFedError):
        return result.exception.code
    assert result.exit_code == 0, result.output
    return result.output


def test_a_log_is_shown_verified_and_held_against_the_coordinators_anchor(made: Made, tmp_path: Path) -> None:
    assert "no entry yet" in run(made, "verify")
    log = AuditLog.of(made.state("ct"), made.sites["ct"])
    log.add("received", kind="fit", round=3, envelope="ab" * 32)
    keep_anchor(tmp_path / "audit", "ct", log.add("sent", bytes=12345))
    assert "2 entries, whole and signed by ct" in run(made, "verify")
    anchor = str(tmp_path / "audit" / "ct.json")
    assert "2 entries" in run(made, "verify", "--anchor", anchor)
    shown = run(made, "show", "--last", "1")
    assert "bytes 12345" in shown
    assert "received" not in shown
    assert "envelope abababababab.." in run(made, "show")


def test_what_is_wrong_has_its_number(made: Made, tmp_path: Path) -> None:
    log = AuditLog.of(made.state("ct"), made.sites["ct"])
    keep_anchor(tmp_path / "audit", "ct", log.add("sent", bytes=1))
    keep_anchor(tmp_path / "audit", "ct", log.add("sent", bytes=2))
    file, head = log.folder / "log.jsonl", log.folder / "head.json"
    good = file.read_bytes()
    config = ClientConfig(site="ct", data=Path(), state=made.state("ct"))
    assert check_audit(config).state == "ok"
    file.write_bytes(good.replace(b'"bytes":1', b'"bytes":7'))
    assert run(made, "verify") == "OF830"
    finding = check_audit(config)
    assert (finding.state, finding.code) == ("fail", "OF830")
    assert finding.seen.startswith("line 1:")
    file.write_bytes(good)
    kept = head.read_bytes()
    head.unlink()
    assert run(made, "verify") == "OF831"
    head.write_bytes(kept)
    anchor = tmp_path / "audit" / "ct.json"
    assert "2 entries" in run(made, "verify", "--anchor", str(anchor))
    for path in (file, head):
        path.unlink()
    assert run(made, "verify", "--anchor", str(anchor)) == "OF832"
    anchor.write_text("{}")
    assert run(made, "verify", "--anchor", str(anchor)) == "OF833"
    assert run(made, "verify", "--anchor", str(tmp_path / "none")) == "OF833"


def test_an_anchor_never_goes_back(made: Made, tmp_path: Path) -> None:
    log = AuditLog.of(made.state("ct"), made.sites["ct"])
    early, late = log.add("sent", bytes=1), log.add("sent", bytes=2)
    for anchor in (early, late, early):
        keep_anchor(tmp_path, "ct", anchor)
    assert (tmp_path / "ct.json").read_text() == f'{{\n "count": 2,\n "hash": "{late.hash}"\n}}'


def test_without_a_log_or_an_identity_the_doctor_says_so(made: Made, tmp_path: Path) -> None:
    config = ClientConfig(site="ct", data=Path(), state=made.state("ct"))
    assert check_audit(config).seen == "no entry yet"
    assert check_audit(config.model_copy(update={"insecure": True})).state == "ok"
    assert check_audit(config.model_copy(update={"state": tmp_path / "new"})).state == "warn"
