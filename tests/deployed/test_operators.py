"""The operators' papers say what the code does: every key, every link, every published path."""

from __future__ import annotations

import configparser
import re
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
    paths = ["~ ^/v1/fleet/[a-z-]+$", '~ "^/v1/standing/[0-9a-f]{64}$"', "= /health", "/"]
    assert re.findall(r"^ *location (.+) \{$", text, re.MULTILINE) == paths
    link = "https://omnifed_superlink"
    assert re.findall(r"proxy_pass (\S+);", text) == [f"{link}$uri", f"{link}$uri", f"{link}/health"]


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


def test_the_service_may_publish_itself_on_a_port_below_1024() -> None:
    unit = (ROOT / "server" / "omnifed-server.service").read_text()
    assert "AmbientCapabilities=CAP_NET_BIND_SERVICE\nCapabilityBoundingSet=CAP_NET_BIND_SERVICE\n" in unit


def test_the_cluster_script_is_plain_shell() -> None:
    assert subprocess.run(["sh", "-n", str(ROOT / "client" / "example" / "omnifed.sbatch")]).returncode == 0
