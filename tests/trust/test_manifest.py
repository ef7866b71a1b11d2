"""A model's manifest: what it says, who may vouch for it, and what `verified` takes."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from made_models import ORIGIN, Federation, card, content, member

from omnifed.errors import OmniFedError
from omnifed.export.signed import write_model
from omnifed.export.verification import STEPS, read_verified, verify_model
from omnifed.trust.anchor import find_anchor
from omnifed.trust.authority import admit, revoke
from omnifed.trust.enrolment import join, renew
from omnifed.trust.identity import SiteIdentity
from omnifed.trust.manifest import Origin, manifest_path, read_manifest
from omnifed.trust.signing import fingerprint


@pytest.fixture
def made(tmp_path: Path) -> Federation:
    return Federation(tmp_path)


def states(verdict: object) -> dict[str, str]:
    return {check.name: check.state for check in verdict.checks}  # type: ignore[attr-defined]


def test_an_export_signs_what_it_writes(made: Federation) -> None:
    write_model(made.model, content(2.0), made.north, ORIGIN)
    said = read_manifest(manifest_path(made.model))
    body = made.model.read_bytes()
    assert (said.bytes, said.sha256) == (len(body), hashlib.sha256(body).hexdigest())
    assert said.card_sha256 == hashlib.sha256(card().model_dump_json().encode()).hexdigest()
    assert (said.file, said.federation, said.site) == ("model.onnx", "liver-net", "north")
    assert (said.key, said.origin) == (made.north.key.public, ORIGIN)
    assert abs(datetime.now(UTC) - said.created) < timedelta(minutes=1)
    assert str(made.folder) not in manifest_path(made.model).read_text()


def test_an_unsigned_export_leaves_no_manifest_of_the_model_before(made: Federation) -> None:
    write_model(made.model, content(2.0), None, Origin())
    assert not made.beside.exists()


@pytest.mark.parametrize("how", ["kit", "folder", "roster and key", "roster and fingerprint", "kit and roster"])
def test_a_members_model_is_verified_by_each_way_to_name_the_federation(made: Federation, how: str) -> None:
    kit = made.south.folder / "kit.json"
    anchor = find_anchor(
        **{
            "kit": {"kit": kit},
            "folder": {"kit": made.south.folder},
            "roster and key": {"roster": made.roster, "root": made.root.upper()},
            "roster and fingerprint": {"roster": made.roster, "root": fingerprint(made.root)},
            "kit and roster": {"kit": kit, "roster": made.roster, "root": made.root},
        }[how]
    )
    verdict = verify_model(made.model, anchor=anchor)
    assert verdict.result == "verified", verdict
    assert list(states(verdict)) == list(STEPS)
    assert read_verified(made.model, anchor) == made.model.read_bytes()


def test_without_a_federation_a_model_is_intact_at_most_and_it_says_what_was_not_checked(made: Federation) -> None:
    verdict = verify_model(made.model)
    assert verdict.result == "intact"
    assert [name for name, state in states(verdict).items() if state == "open"] == ["signer", "revocation"]
    made.beside.unlink()
    verdict = verify_model(made.model)
    assert verdict.result == "intact"
    assert states(verdict)["manifest"] == "open"


def test_a_copy_under_another_name_is_the_same_model(made: Federation) -> None:
    other = made.folder / "copy.onnx"
    other.write_bytes(made.model.read_bytes())
    anchor = find_anchor(kit=made.south.folder)
    assert verify_model(other, manifest=made.beside, anchor=anchor).result == "verified"


def test_a_key_that_ended_since_vouches_for_what_it_signed_before(made: Federation) -> None:
    later = made.signed + timedelta(hours=1)
    join(made.north.folder, admit(made.coordinator.folder, renew(made.north.folder, now=later), now=later), now=later)
    north = SiteIdentity.load(made.north.folder)
    assert north.key.public != made.north.key.public
    anchor = find_anchor(roster=made.roster, root=made.root)
    after = datetime.now(UTC) + timedelta(days=30)
    assert verify_model(made.model, anchor=anchor, now=after).result == "verified"
    made.sign(made.north, now=later + timedelta(days=8))  # with the old key, after the overlap
    assert verify_model(made.model, anchor=anchor, now=after).checks[-1].code == "OF873"
    made.sign(north, now=later + timedelta(days=8))
    assert verify_model(made.model, anchor=anchor, now=after).result == "verified"


def test_a_site_that_was_revoked_since_is_not_vouched_for(made: Federation) -> None:
    revoke(made.coordinator.folder, "north")
    anchor = find_anchor(roster=made.roster, root=made.root)
    assert anchor is not None
    verdict = verify_model(made.model, anchor=anchor)
    assert (verdict.result, states(verdict)["revocation"]) == ("intact", "open")
    with pytest.raises(OmniFedError, match="OF873"):
        read_verified(made.model, anchor)
    # Whoever has only the roster of before cannot know: that is why it expires.
    assert verify_model(made.model, anchor=find_anchor(kit=made.south.folder)).result == "verified"


def test_a_site_that_was_admitted_later_needs_the_roster_of_then(made: Federation) -> None:
    west = member(made.folder / "west", made.coordinator, "west", made.then)
    made.sign(west)
    old = find_anchor(kit=made.north.folder / "kit.json")
    assert verify_model(made.model, anchor=old).checks[-1].code == "OF873"
    new = find_anchor(kit=made.north.folder / "kit.json", roster=made.roster)
    assert verify_model(made.model, anchor=new).result == "verified"


@pytest.mark.parametrize(
    ("code", "named"),
    [
        ("OF876", {"roster": True}),
        ("OF876", {"root": "0" * 64}),
        ("OF876", {"roster": True, "root": "0" * 63}),
        ("OF873", {"roster": True, "root": "0" * 64}),
        ("OF873", {"roster": True, "root": "0000 " * 8}),
        ("OF873", {"kit": True, "root": "0" * 64}),
    ],
)
def test_whom_to_trust_must_be_said_and_fit(made: Federation, code: str, named: dict[str, object]) -> None:
    paths = {"roster": made.roster, "kit": made.south.folder / "kit.json"}
    with pytest.raises(OmniFedError, match=code):
        find_anchor(**{name: paths[name] if value is True else value for name, value in named.items()})


def test_an_old_roster_does_not_bring_back_who_was_revoked(made: Federation, tmp_path: Path) -> None:
    old = tmp_path / "old.json"
    old.write_bytes(made.roster.read_bytes())
    revoke(made.coordinator.folder, "north")
    signed = made.coordinator.signed_roster()
    made.south.accept(signed)
    with pytest.raises(OmniFedError, match="OF803"):
        find_anchor(roster=old, root=made.root, now=datetime.now(UTC) + timedelta(days=400))
    anchor = find_anchor(kit=made.south.folder)
    assert verify_model(made.model, anchor=anchor).result == "intact"


def test_a_manifest_says_nothing_of_patients_or_paths(made: Federation) -> None:
    body = json.loads(json.loads(made.beside.read_text())["body"])
    assert sorted(body) == [
        "bytes",
        "card_sha256",
        "created",
        "federation",
        "file",
        "format",
        "key",
        "origin",
        "sha256",
        "site",
    ]
