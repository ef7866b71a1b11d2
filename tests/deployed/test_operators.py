"""The operators' papers say what the code does: every key, every link, every published path."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from omnifed_client.config import ClientConfig
from omnifed_server.federation_file import OPERATION, FederationConfig

ROOT = Path(__file__).parents[2]
READMES = (ROOT / "server" / "README.md", ROOT / "client" / "README.md")


@pytest.mark.parametrize(("model", "readme"), [(FederationConfig, READMES[0]), (ClientConfig, READMES[1])])
def test_every_key_is_explained(model: type, readme: Path) -> None:
    rows = "\n".join(line.split("|")[1] for line in readme.read_text().splitlines() if line.startswith("| `"))
    assert not {key for key in model.model_fields if f"`{key}`" not in rows}


def test_what_may_change_in_a_campaign_is_listed_as_such() -> None:
    """The README names the operational keys as stages, wait_s and all from host on."""
    keys = list(FederationConfig.model_fields)
    assert {"stages", "wait_s", *keys[keys.index("host") :]} == set(OPERATION)


@pytest.mark.parametrize("readme", READMES, ids=["server", "client"])
def test_links_lead_somewhere(readme: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", readme.read_text())
    assert targets
    assert not [target for target in targets if not (readme.parent / target).exists()]


def test_proxy_publishes_what_sites_need_alone() -> None:
    text = (ROOT / "server" / "example" / "nginx.conf").read_text()
    assert re.findall(r"^\s*location (.+) \{", text, re.MULTILINE) == ["/v1/fleet/", "= /health", "/"]
    assert re.findall(r"proxy_pass (\S+);", text) == ["http://127.0.0.1:8000/v1/fleet/", "http://127.0.0.1:8000/health"]


@pytest.mark.parametrize(
    ("unit", "program", "person"),
    [
        ("server/omnifed-server.service", "omnifed-server --federation", "2 3"),
        ("client/omnifed-client@.service", "omnifed-client --site %i", "2"),
    ],
)
def test_units_come_back_unless_a_person_is_needed(unit: str, program: str, person: str) -> None:
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(ROOT / unit)
    service = parser["Service"]
    assert program in service["ExecStart"]
    assert service["Restart"] == "on-failure"
    assert service["RestartPreventExitStatus"] == person


@pytest.mark.parametrize("script", ["server/example/make-certificate.sh", "client/example/omnifed.sbatch"])
def test_scripts_are_plain_shell(script: str) -> None:
    assert subprocess.run(["sh", "-n", str(ROOT / script)]).returncode == 0


@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl is not installed")
def test_certificate_is_renewed_under_the_same_authority(tmp_path: Path) -> None:
    def make(*hosts: str) -> tuple[bytes, bytes]:
        script = ROOT / "server" / "example" / "make-certificate.sh"
        subprocess.run(["sh", str(script), *hosts], cwd=tmp_path, check=True, capture_output=True)
        files = [tmp_path / "tls" / name for name in ("ca.pem", "server.pem")]
        check = ["openssl", "verify", "-x509_strict", "-CAfile", *map(str, files)]
        assert subprocess.run(check, capture_output=True).returncode == 0
        return files[0].read_bytes(), files[1].read_bytes()

    authority, first = make("fed.example.org", "192.0.2.7")
    shown = subprocess.run(
        ["openssl", "x509", "-noout", "-ext", "subjectAltName", "-in", str(tmp_path / "tls" / "server.pem")],
        capture_output=True,
        text=True,
    ).stdout
    assert "DNS:fed.example.org, IP Address:192.0.2.7" in shown
    again, second = make("fed.example.org")
    assert again == authority
    assert second != first
    assert (tmp_path / "tls" / "ca.key").stat().st_mode & 0o077 == 0
    assert (tmp_path / "tls" / "server.key").stat().st_mode & 0o077 == 0
    (tmp_path / "tls" / "ca.key").unlink()
    with pytest.raises(subprocess.CalledProcessError):
        make("fed.example.org")
    assert (tmp_path / "tls" / "ca.pem").read_bytes() == authority
