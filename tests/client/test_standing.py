"""A site that its federation does not take is told why, by its own files and by a real little coordinator."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from small_servers import Coordinator, closed_port, coordinator, silent

from omnifed.errors import OmniFedError
from omnifed.transport.membership import STANDING, digest
from omnifed.trust.authority import admit, found, revoke
from omnifed.trust.enrolment import enrol, join
from omnifed.trust.identity import SiteIdentity
from omnifed.trust.request import node_public
from omnifed_client import reach
from omnifed_client.config import ClientConfig
from omnifed_client.network_checks import check_network
from omnifed_client.standing import asked_refusal, known_refusal
from omnifed_client.supervisor import REFUSED_AFTER, Site

CODES = {"unknown": "OF810", "revoked": "OF811", "expired": "OF812"}


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(reach, "TIMEOUT_S", 0.5)


@pytest.fixture
def identity(tmp_path: Path) -> SiteIdentity:
    own = tmp_path / "state" / "identity"
    found(tmp_path / "coordinator", "test", "127.0.0.1:8000")
    return join(own, admit(tmp_path / "coordinator", enrol(own, "ct")))


def certificate(folder: Path) -> Path:
    both = folder.parent / f"{folder.name}.pem"
    both.write_bytes((folder / "server.key").read_bytes() + (folder / "server.pem").read_bytes())
    return both


def config(tmp_path: Path, port: int, **changes: object) -> ClientConfig:
    values = {"site": "ct", "data": tmp_path, "state": tmp_path / "state", "server": f"127.0.0.1:{port}"}
    return ClientConfig.model_validate({**values, **changes})


def says(server: Coordinator, identity: SiteIdentity, standing: str) -> None:
    path = STANDING + digest(node_public(identity.node_key))
    server.bodies[path] = json.dumps({"standing": standing}).encode()


def code(error: OmniFedError | None) -> str:
    return error.code if error else ""


def test_what_the_site_holds_is_looked_at_before_anybody_is_asked(tmp_path: Path, identity: SiteIdentity) -> None:
    assert known_refusal(identity) is None
    assert code(known_refusal(identity, datetime.now(UTC) + timedelta(days=366))) == "OF812"
    revoke(tmp_path / "coordinator", "ct")
    assert known_refusal(identity) is None
    identity.accept(SiteIdentity.load(identity.folder).kit.roster)
    (identity.folder / "roster.json").write_bytes((tmp_path / "coordinator" / "roster.json").read_bytes())
    assert code(known_refusal(identity)) == "OF811"


@pytest.mark.parametrize("standing", CODES)
def test_the_coordinators_answer_has_a_number_of_its_own(tmp_path: Path, identity: SiteIdentity, standing: str) -> None:
    with coordinator(certificate(tmp_path / "coordinator")) as server:
        client = config(tmp_path, server.port)
        says(server, identity, "member")
        assert asked_refusal(client, identity) is None
        found = {finding.name: finding for finding in check_network(client)}
        assert {finding.state for finding in found.values()} == {"ok"}
        says(server, identity, standing)
        assert code(asked_refusal(client, identity)) == CODES[standing]
        found = {finding.name: finding for finding in check_network(client)}
        assert (found["membership"].state, found["membership"].code) == ("fail", CODES[standing])
        assert found["membership"].remedy


def test_another_federations_coordinator_is_told_apart(tmp_path: Path, identity: SiteIdentity) -> None:
    found(tmp_path / "other", "test", "127.0.0.1:8000")
    with coordinator(certificate(tmp_path / "other")) as server:
        client = config(tmp_path, server.port)
        assert code(asked_refusal(client, identity)) == "OF813"
        findings = {finding.name: finding for finding in check_network(client)}
        assert (findings["tls"].state, findings["tls"].code) == ("fail", "OF813")
        assert findings["membership"].state == "warn"
        assert set(server.asked) == {"/health"}, "a stranger is asked for its clock, and told no key"


def test_nobody_is_refused_without_a_word(tmp_path: Path, identity: SiteIdentity) -> None:
    assert asked_refusal(config(tmp_path, closed_port()), identity) is None
    with silent() as port:
        assert asked_refusal(config(tmp_path, port), identity) is None
    with coordinator() as server:  # plain HTTP
        assert asked_refusal(config(tmp_path, server.port), identity) is None
    with coordinator(certificate(tmp_path / "coordinator"), status=503) as server:
        client = config(tmp_path, server.port)
        says(server, identity, "revoked")
        assert asked_refusal(client, identity) is None
        membership = {finding.name: finding for finding in check_network(client)}["membership"]
        assert (membership.state, "503" in membership.seen) == ("warn", True)
    for body in (b"", b"[]", b'{"standing": "king"}', b'{"standing": ["revoked"]}', b"\xff"):
        with coordinator(certificate(tmp_path / "coordinator")) as server:
            server.bodies[STANDING + digest(node_public(identity.node_key))] = body
            assert asked_refusal(config(tmp_path, server.port), identity) is None


@pytest.mark.parametrize(("ahead_s", "words"), [(-60.0, "60 s ahead of"), (400.0, "400 s behind")])
def test_a_wrong_clock_is_named_with_direction_and_seconds(
    tmp_path: Path, identity: SiteIdentity, ahead_s: float, words: str
) -> None:
    with coordinator(certificate(tmp_path / "coordinator"), clock_s=ahead_s) as server:
        says(server, identity, "member")
        clock = {finding.name: finding for finding in check_network(config(tmp_path, server.port))}["clock"]
    assert (clock.state, clock.code) == ("fail", "OF135")
    seconds, _, rest = words.partition(" ")
    assert abs(int(clock.seen.split()[0]) - int(seconds)) <= 1
    assert clock.seen.partition(" ")[2].startswith(rest)


def test_before_a_site_has_joined_its_client_says_how_to(tmp_path: Path) -> None:
    client = ClientConfig(site="ct", data=tmp_path, state=tmp_path / "state")
    assert [(f.name, f.state, "enrol" in f.remedy) for f in check_network(client)] == [("coordinator", "warn", True)]
    with pytest.raises(OmniFedError, match="enrol") as caught:
        Site(client, lambda text: None).run()
    assert caught.value.code == "OF804"


def test_a_client_gives_up_after_a_few_refusals_in_a_row(tmp_path: Path, identity: SiteIdentity) -> None:
    with coordinator(certificate(tmp_path / "coordinator")) as server:
        said: list[str] = []
        site = Site(config(tmp_path, server.port), said.append)
        site._identify()
        for standing in ("revoked", "revoked", "member", *["revoked"] * (REFUSED_AFTER - 1)):
            says(server, identity, standing)
            site._ask_why()
        assert len(said) == 4
        with pytest.raises(OmniFedError, match="OF811"):
            site._ask_why()
