"""A SuperLink's nodes follow the roster: against Flower's own link state and web application."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_public_key

from omnifed.errors import OmniFedError
from omnifed.transport import membership
from omnifed.transport.membership import STANDING, Members, digest
from omnifed.trust.authority import admit, found, revoke, rotate
from omnifed.trust.enrolment import enrol, join, renew
from omnifed.trust.request import node_public


@pytest.fixture
def state() -> Any:
    from flwr.server.superlink.linkstate import LinkStateFactory
    from flwr.supercore.constant import FLWR_IN_MEMORY_DB_NAME
    from flwr.supercore.object_store import ObjectStoreFactory
    from flwr.superlink.federation import NoOpFederationManager

    return LinkStateFactory(FLWR_IN_MEMORY_DB_NAME, NoOpFederationManager(), ObjectStoreFactory()).state()


@pytest.fixture
def coordinator(tmp_path: Path) -> Path:
    found(tmp_path / "coordinator", "test", "127.0.0.1:8000")
    return tmp_path / "coordinator"


def add(coordinator: Path, site: str) -> str:
    """Admits a site; its node's key."""
    own = coordinator.parent / site
    join(own, admit(coordinator, enrol(own, site)))
    return node_public(own / "node.key")


def pem(node: str) -> bytes:
    return load_ssh_public_key(node.encode()).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def nodes(state: Any) -> dict[str, int]:
    """Registered nodes: id by site."""
    return {node.name: node.node_id for node in state.get_node_info() if node.status != "unregistered"}


def test_nodes_follow_admissions_and_revocations(coordinator: Path, state: Any) -> None:
    north = add(coordinator, "north")
    members = Members(coordinator, state)
    assert list(nodes(state)) == ["north"]
    before = nodes(state)["north"]
    east = add(coordinator, "east")
    members.refresh()
    assert sorted(nodes(state)) == ["east", "north"]
    assert nodes(state)["north"] == before, "who was there is not touched"
    assert state.get_node_id_by_public_key(pem(east)) == nodes(state)["east"]
    revoke(coordinator, "north")
    members.refresh()
    assert list(nodes(state)) == ["east"]
    assert state.get_node_id_by_public_key(pem(north)) is None
    assert [members.standing(digest(key)) for key in (north, east, "ssh-ed25519 none")] == [
        "revoked", "member", "unknown",
    ]  # fmt: skip


def test_keys_that_end_are_cut_off_without_a_new_roster(coordinator: Path, state: Any) -> None:
    key = add(coordinator, "north")
    members = Members(coordinator, state)
    year = datetime.now(UTC) + timedelta(days=366)
    members.roster = members.roster.model_copy(update={"expires": year + timedelta(days=1)})
    members.apply(year)
    assert nodes(state) == {}
    assert members.standing(digest(key), year) == "expired"
    members.apply()
    assert list(nodes(state)) == ["north"], "Flower itself never takes a deleted key again"


def test_an_expired_roster_has_no_members(coordinator: Path, state: Any) -> None:
    key = add(coordinator, "north")
    members = Members(coordinator, state)
    later = datetime.now(UTC) + timedelta(days=181)
    members.apply(later)
    assert nodes(state) == {}
    assert members.standing(digest(key), later) is None
    rotate(coordinator, now=datetime.now(UTC) - timedelta(days=181))
    with pytest.raises(OmniFedError, match="OF803"):
        Members(coordinator, state)


def test_while_keys_are_rotated_both_are_taken(coordinator: Path, state: Any) -> None:
    first = add(coordinator, "north")
    members = Members(coordinator, state)
    own = coordinator.parent / "north"
    join(own, admit(coordinator, renew(own)))
    second = node_public(own / "node.key")
    assert second != first
    members.refresh()
    assert None not in [state.get_node_id_by_public_key(pem(key)) for key in (first, second)]
    members.apply(datetime.now(UTC) + timedelta(days=8))
    assert state.get_node_id_by_public_key(pem(first)) is None
    assert state.get_node_id_by_public_key(pem(second)) is not None


def test_what_is_no_roster_of_the_authority_changes_nothing(coordinator: Path, state: Any, tmp_path: Path) -> None:
    add(coordinator, "north")
    members = Members(coordinator, state)
    file = coordinator / "roster.json"
    good = file.read_bytes()
    found(tmp_path / "other", "test", "127.0.0.1:8000")
    stale = json.loads(good)
    add(coordinator, "east")
    members.refresh()
    for content in (b"", b"{", (tmp_path / "other" / "roster.json").read_bytes(), json.dumps(stale).encode()):
        file.write_bytes(content)
        members.refresh()
        assert sorted(nodes(state)) == ["east", "north"]
    file.unlink()
    members.refresh()
    assert sorted(nodes(state)) == ["east", "north"]


def test_nobody_is_registered_by_another_way(coordinator: Path, state: Any) -> None:
    add(coordinator, "north")
    members = Members(coordinator, state)
    stranger = pem(node_public(_made(coordinator.parent / "stranger")))
    state.create_node("somebody", "somebody", stranger, 30.0, name="north")
    members.refresh()
    assert state.get_node_id_by_public_key(stranger) is None
    assert list(nodes(state)) == ["north"]


def test_a_node_that_comes_back_has_another_id(coordinator: Path, state: Any) -> None:
    key = pem(add(coordinator, "north"))
    members = Members(coordinator, state)
    first = nodes(state)["north"]
    members.renew(key)
    assert nodes(state)["north"] == first, "nobody has used it yet"
    assert state.activate_node(first, 30.0)
    members.renew(key)
    second = nodes(state)["north"]
    assert second != first
    assert state.activate_node(second, 30.0), "after kill -9 Flower would refuse the key for a minute"
    assert {n.node_id for n in state.get_node_info(statuses=["online"])} == {second}
    members.renew(b"unknown")


def test_a_superlink_that_cannot_see_its_roster_ends(
    coordinator: Path, state: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = Members(coordinator, state)
    monkeypatch.setattr(membership, "CHECK_S", 0.0)
    monkeypatch.setattr(members, "refresh", lambda: 1 / 0)
    ended: list[int] = []
    monkeypatch.setattr(membership, "os", SimpleNamespace(_exit=ended.append))
    members.watch()
    assert ended == [1]


def test_the_web_application_tells_the_standing_of_a_key(coordinator: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flwr.superlink import extensions, main
    from flwr.superlink.servicer.fleet import fleet_handlers
    from starlette.testclient import TestClient

    monkeypatch.setattr(extensions, "configure_app", lambda app: membership.guard(coordinator, app))
    monkeypatch.setattr(fleet_handlers, "activate_node", fleet_handlers.activate_node)
    idle = SimpleNamespace(start=lambda: None)
    monkeypatch.setattr(membership, "threading", SimpleNamespace(Thread=lambda **about: idle))
    key = add(coordinator, "north")
    client = TestClient(main.create_app())
    assert client.get("/health").status_code == 200
    assert client.get(STANDING + digest(key)).json() == {"standing": "member"}
    assert client.get(STANDING + "0" * 64).json() == {"standing": "unknown"}


def _made(folder: Path) -> Path:
    enrol(folder, "stranger")
    return folder / "node.key"
