"""Founding, admitting, revoking, rotating: who may do what to whom, and what lies on the disk."""

from __future__ import annotations

import os
import shutil
import ssl
import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from made import Made, federation_of

from omnifed.errors import OmniFedError
from omnifed.trust import authority_folder as module
from omnifed.trust.authority import admit, found, revoke, rotate
from omnifed.trust.enrolment import enrol, join, renew
from omnifed.trust.identity import CoordinatorIdentity, SiteIdentity
from omnifed.trust.kit import open_kit
from omnifed.trust.request import REQUEST, open_request
from omnifed.trust.signing import Signed, SigningKey

NOW = datetime.now(UTC).replace(microsecond=0)


def later(**time: float) -> datetime:
    return NOW + timedelta(**time)


def refused(call, *arguments, **options) -> OmniFedError:
    with pytest.raises(OmniFedError) as caught:
        call(*arguments, **options)
    return caught.value


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return federation_of(tmp_path, ["ct", "mr"], now=NOW)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# Founding -------------------------------------------------------------------------------------------------------------


def test_a_founded_federation(tmp_path: Path) -> None:
    identity = found(tmp_path / "a", "chaos", "omnifed.example.org:443", now=NOW)
    roster = identity.held()
    assert (roster.federation, roster.version, roster.members) == ("chaos", 1, ())
    assert (roster.issued, roster.expires) == (NOW, later(days=180))
    assert roster.coordinator_keys(NOW) == (identity.key.public,)
    assert roster.coordinator[0].until == later(days=90)
    assert identity.about.host == "omnifed.example.org"


def test_what_is_secret_is_closed_to_others(made: Made) -> None:
    folder, site = made.coordinator.folder, made.state("ct")
    for path in (folder, folder / "authority", site, site / "identity"):
        assert mode(path) == 0o700, path
    keys = ["authority/root.key", "authority/ca.key", "sign.key", "server.key"]
    for path in [*(folder / name for name in keys), *(site / "identity" / name for name in ("site.key", "node.key"))]:
        assert mode(path) == 0o600, path
    assert made.sites["ct"].vault == made.sites["ct"].vault
    assert len(made.sites["ct"].vault) == 32
    assert mode(site / "identity" / "vault.key") == 0o600


def test_no_private_key_leaves_with_request_or_kit(made: Made) -> None:
    folder = made.state("xr") / "identity"
    request = enrol(folder, "xr", now=NOW)
    kit = admit(made.coordinator.folder, request, now=NOW)
    for sent in (request.to_json(), kit.to_json()):
        assert b"PRIVATE" not in sent
    for name in ("site.key", "node.key"):
        secret = (folder / name).read_text().splitlines()[1]
        assert secret.encode() not in request.to_json() + kit.to_json()


def test_a_folder_in_use_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "thesis.txt").write_text("x")
    assert refused(found, tmp_path / "a", "chaos", "localhost:1").code == "OF809"
    assert os.listdir(tmp_path / "a") == ["thesis.txt"]
    found(tmp_path / "b", "chaos", "localhost:1")
    before = (tmp_path / "b" / "sign.key").read_bytes()
    assert refused(found, tmp_path / "b", "chaos", "localhost:1").code == "OF809"
    assert (tmp_path / "b" / "sign.key").read_bytes() == before


@pytest.mark.parametrize(
    ("name", "server"),
    [
        ("a b", "localhost:1"),
        ("", "localhost:1"),
        ("a", "localhost"),
        ("a", "https://localhost:1"),
        ("a", "x@y:1"),
        ("a", "café.fr:1"),
        ("a", "[::1"),
        ("a", "localhost:99999"),
        ("a", "a/b:1"),
    ],
)
def test_a_wrong_name_or_address_is_refused_and_nothing_is_made(tmp_path: Path, name: str, server: str) -> None:
    assert refused(found, tmp_path / "a", name, server).code == "OF102"
    assert os.listdir(tmp_path) == []


def test_a_crash_while_founding_leaves_nothing_that_looks_whole(tmp_path: Path, monkeypatch) -> None:
    def fails(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "make_server", fails)
    with pytest.raises(KeyboardInterrupt):
        found(tmp_path / "a", "chaos", "localhost:1")
    assert os.listdir(tmp_path) == []


def test_a_folder_that_is_no_identity_is_of805(tmp_path: Path) -> None:
    assert refused(CoordinatorIdentity.load, tmp_path).code == "OF805"
    assert refused(rotate, tmp_path).code == "OF805"


# The authority's disk -------------------------------------------------------------------------------------------------


def test_the_authority_may_lie_elsewhere(made: Made) -> None:
    away, folder = made.folder / "usb", made.coordinator.folder
    shutil.move(folder / "authority", away)
    request = enrol(made.state("xr") / "identity", "xr", now=NOW)
    for call, *arguments in ((admit, request), (revoke, "ct"), (rotate,)):
        assert refused(call, folder, *arguments).code == "OF806"
    assert CoordinatorIdentity.load(folder).held().version == 3
    admit(folder, request, authority=away, now=NOW)
    revoke(folder, "ct", authority=away, now=NOW)
    assert rotate(folder, authority=away, now=NOW).version == 6


def test_another_federations_authority_is_refused(made: Made, tmp_path: Path) -> None:
    found(tmp_path / "other", "chaos", "localhost:1")
    error = refused(revoke, made.coordinator.folder, "ct", authority=tmp_path / "other" / "authority")
    assert error.code == "OF806"


def test_a_tampered_online_folder_cannot_undo_a_revocation(made: Made) -> None:
    folder = made.coordinator.folder
    old = (folder / "roster.json").read_bytes()
    made.revoke("mr", now=NOW)
    (folder / "roster.json").write_bytes(old)
    roster = rotate(folder, now=NOW)
    assert roster.version == 5
    assert roster.standing("mr", NOW) == "revoked"


def test_an_online_roster_that_is_newer_counts(made: Made) -> None:
    place = made.coordinator.folder / "authority" / "roster.json"
    old = place.read_bytes()
    made.revoke("mr", now=NOW)
    place.write_bytes(old)
    assert rotate(made.coordinator.folder, now=NOW).standing("mr", NOW) == "revoked"


# Admitting ------------------------------------------------------------------------------------------------------------


def test_admitting_raises_the_version_and_touches_no_other_site(made: Made) -> None:
    assert made.coordinator.held().version == 3
    files = {path: path.read_bytes() for path in made.state("ct").rglob("*") if path.is_file()}
    made.admit("us", now=NOW)
    assert {path: path.read_bytes() for path in made.state("ct").rglob("*") if path.is_file()} == files
    roster = made.coordinator.held()
    assert roster.version == 4
    assert [member.site for member in roster.members] == ["ct", "mr", "us"]
    ct = roster.member("ct")
    assert ct is not None
    assert len(ct.terms) == 1
    assert (ct.terms[0].since, ct.terms[0].until) == (later(minutes=-10), later(days=365))


def test_admissions_at_the_same_time_wait_for_each_other(made: Made) -> None:
    folder, names = made.coordinator.folder, ["s1", "s2", "s3", "s4"]
    requests = [enrol(made.state(name) / "identity", name, now=NOW) for name in names]
    with ThreadPoolExecutor(4) as pool:
        kits = list(pool.map(lambda request: admit(folder, request, now=NOW), requests))
    versions = {open_kit(kit).roster.body for kit in kits}
    assert len(versions) == 4
    roster = made.coordinator.held()
    assert (roster.version, [member.site for member in roster.members]) == (7, ["ct", "mr", *names])


def test_the_kit_says_all_that_a_site_needs(made: Made) -> None:
    kit = made.sites["ct"].kit
    assert (kit.federation, kit.site, kit.server) == ("test", "ct", "127.0.0.1:8000")
    assert (kit.issued, kit.expires) == (NOW, later(days=365))
    assert kit.root == made.coordinator.about.root
    assert kit.ca == (made.coordinator.folder / "ca.pem").read_text() == made.sites["ct"].ca.read_text()


def test_the_same_keys_again_renew_their_term(made: Made) -> None:
    request = enrol(made.state("ct") / "identity", "ct")
    kit = admit(made.coordinator.folder, request, now=later(days=300))
    assert open_kit(kit).expires == later(days=665)
    member = made.coordinator.held().member("ct")
    assert member is not None
    assert len(member.terms) == 1
    assert member.terms[0].since == later(minutes=-10)


def test_other_keys_for_a_members_name_are_refused(made: Made, tmp_path: Path) -> None:
    impostor = enrol(tmp_path / "impostor", "ct", now=NOW)
    assert refused(admit, made.coordinator.folder, impostor, now=NOW).code == "OF807"
    assert made.coordinator.held().version == 3


def test_a_site_that_lost_its_keys_is_replaced_and_the_old_ones_end_at_once(made: Made, tmp_path: Path) -> None:
    old = made.sites["ct"].key.public
    kit = admit(made.coordinator.folder, enrol(tmp_path / "new", "ct", now=NOW), replace=True, now=later(days=1))
    new = join(tmp_path / "new", kit, now=later(days=1)).key.public
    roster = made.coordinator.held()
    assert roster.keys_of("ct", later(hours=23)) == (old,)
    assert roster.keys_of("ct", later(days=1)) == (new,)


def test_rotated_keys_overlap_for_seven_days(made: Made) -> None:
    folder = made.state("ct") / "identity"
    old = made.sites["ct"].key.public
    request = renew(folder, now=later(days=350))
    admit(made.coordinator.folder, request, now=later(days=350))
    roster, new = made.coordinator.held(), open_request(request).sign
    assert roster.keys_of("ct", later(days=349)) == (old,)
    assert roster.keys_of("ct", later(days=350)) == (old, new)
    assert roster.keys_of("ct", later(days=356, hours=23)) == (old, new)
    assert roster.keys_of("ct", later(days=357)) == (new,)
    assert roster.keys_of("ct", later(days=715)) == ()


def test_a_rotation_needs_a_key_that_is_valid_now(made: Made) -> None:
    request = renew(made.state("ct") / "identity", now=NOW)
    assert refused(admit, made.coordinator.folder, request, now=later(days=365)).code == "OF807"


def test_a_rotation_without_the_old_keys_signature_is_refused(made: Made, tmp_path: Path) -> None:
    stolen = open_request(renew(made.state("ct") / "identity", now=NOW))
    for changes in (
        {"proof": ""},
        {"previous": made.sites["mr"].key.public},
        {"site": "mr"},
        {"created": later(days=1)},
    ):
        forged = Signed.seal(
            REQUEST, stolen.model_copy(update=changes), SigningKey.load(made.state("ct") / "identity/next/site.key")
        )
        assert refused(admit, made.coordinator.folder, forged, now=NOW).code == "OF807", changes
    # The proof is for these keys: put upon others it is worth nothing.
    other = open_request(enrol(tmp_path / "thief", "ct", now=NOW))
    forged = Signed.seal(
        REQUEST,
        other.model_copy(update={"previous": stolen.previous, "proof": stolen.proof}),
        SigningKey.load(tmp_path / "thief" / "site.key"),
    )
    assert refused(admit, made.coordinator.folder, forged, now=NOW).code == "OF807"


def test_replaced_and_revoked_keys_never_come_back(made: Made, tmp_path: Path) -> None:
    folder = made.coordinator.folder
    first = enrol(made.state("ct") / "identity", "ct")
    second = renew(made.state("ct") / "identity", now=NOW)
    join(made.state("ct") / "identity", admit(folder, second, now=NOW), now=NOW)
    third = renew(made.state("ct") / "identity", now=later(days=1))
    admit(folder, third, now=later(days=1))
    for old in (first, second):
        for replace in (False, True):
            assert refused(admit, folder, old, replace=replace, now=later(days=2)).code == "OF807"
    made.revoke("mr", now=NOW)
    mr = enrol(made.state("mr") / "identity", "mr")
    for replace in (False, True):
        assert refused(admit, folder, mr, replace=replace, now=NOW).code == "OF807"


def test_a_revoked_site_cannot_vouch_for_itself_but_may_come_back_with_new_keys(made: Made) -> None:
    made.revoke("ct", now=NOW)
    request = renew(made.state("ct") / "identity", now=NOW)
    folder = made.coordinator.folder
    assert refused(admit, folder, request, now=later(hours=1)).code == "OF807"
    admit(folder, request, replace=True, now=later(hours=1))
    roster = made.coordinator.held()
    assert roster.standing("ct", later(hours=1)) == "member"
    # What it signed while it was revoked stays unsigned.
    assert roster.keys_of("ct", later(minutes=30)) == ()
    assert roster.keys_of("ct", later(hours=1)) == (open_request(request).sign,)


def test_the_keys_of_another_site_are_refused(made: Made, tmp_path: Path) -> None:
    theirs = made.coordinator.held().member("mr")
    assert theirs is not None
    enrol(tmp_path / "copy", "us", now=NOW)
    ours = SigningKey.load(tmp_path / "copy" / "site.key")
    mine = open_request(enrol(tmp_path / "copy", "us"))
    forged = Signed.seal(REQUEST, mine.model_copy(update={"node": theirs.terms[0].node}), ours)
    assert refused(admit, made.coordinator.folder, forged, now=NOW).code == "OF807"
    copied = Signed.seal(REQUEST, mine.model_copy(update={"sign": made.sites["mr"].key.public}), made.sites["mr"].key)
    assert refused(admit, made.coordinator.folder, copied, now=NOW).code == "OF807"


# Revoking and rotating ------------------------------------------------------------------------------------------------


def test_revoking(made: Made) -> None:
    assert made.revoke("ct", now=later(days=1)).version == 4
    roster = made.coordinator.held()
    assert roster.standing("ct", later(hours=23)) == "member"
    assert roster.standing("ct", later(days=1)) == "revoked"
    assert roster.standing("mr", later(days=1)) == "member"
    # Said twice, the first time counts.
    assert made.revoke("ct", now=later(days=2)).member("ct").revoked == later(days=1)
    assert refused(made.revoke, "nobody").code == "OF809"


def test_rotating_renews_everything_and_the_old_key_lasts_seven_days(made: Made) -> None:
    folder = made.coordinator.folder
    old = {name: (folder / name).read_bytes() for name in ("sign.key", "server.key", "server.pem", "ca.pem")}
    roster = rotate(folder, now=later(days=30))
    identity = CoordinatorIdentity.load(folder)
    new = identity.key.public
    assert new != made.coordinator.key.public
    assert roster.coordinator_keys(later(days=30)) == (made.coordinator.key.public, new)
    assert roster.coordinator_keys(later(days=37)) == (new,)
    assert (roster.version, roster.expires) == (4, later(days=210))
    assert identity.held() == roster
    assert {name for name, text in old.items() if (folder / name).read_bytes() == text} == {"ca.pem"}
    assert sorted(os.listdir(folder)) == sorted([*old, "authority", "federation.json", "roster.json"])
    assert mode(folder / "sign.key") == mode(folder / "server.key") == 0o600


def test_a_stolen_key_ends_at_once_also_for_clocks_that_are_behind(made: Made) -> None:
    rotate(made.coordinator.folder, now=later(days=-3))
    overlapping = made.coordinator.held().coordinator_keys(NOW)
    assert len(overlapping) == 2
    roster = rotate(made.coordinator.folder, at_once=True, now=NOW)
    new = CoordinatorIdentity.load(made.coordinator.folder).key.public
    assert new not in overlapping
    for minutes in (-9, 0, 60 * 24 * 6):
        assert roster.coordinator_keys(later(minutes=minutes)) == (new,)


@pytest.mark.parametrize("writes", range(8))
def test_a_crash_in_a_rotation_leaves_what_works(made: Made, monkeypatch, writes: int) -> None:
    """The power fails after that many renamed files: the key in use is in the roster, key and certificate fit."""
    folder, rename, count = made.coordinator.folder, os.replace, 0

    def failing(source, target) -> None:
        nonlocal count
        if count == writes:
            raise KeyboardInterrupt
        count += 1
        rename(source, target)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(KeyboardInterrupt):
        rotate(folder, now=NOW)
    monkeypatch.setattr(os, "replace", rename)
    identity = CoordinatorIdentity.load(folder)
    assert identity.key.public in identity.roster().coordinator_keys(later(minutes=1))
    assert (identity.key.public == made.coordinator.key.public) == (writes < 5)
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(folder / "server.pem", folder / "server.key")
    assert rotate(folder, now=later(days=1)).version in (4, 5)
    assert CoordinatorIdentity.load(folder).key.public == made.coordinator.held().coordinator[-1].sign
    assert not list(folder.glob("*.next"))


def test_sites_take_the_roster_with_the_new_key(made: Made) -> None:
    rotate(made.coordinator.folder)
    made.spread()
    site = SiteIdentity.load(made.state("ct") / "identity")
    assert CoordinatorIdentity.load(made.coordinator.folder).key.public in site.roster().coordinator_keys()
