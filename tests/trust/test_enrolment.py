"""Keys at a site, its request, the kit: whose it is, and what happens when anything of it is altered."""

from __future__ import annotations

import os
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Thread

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_ssh_private_key,
    load_ssh_public_key,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made import Made, federation_of

from omnifed.errors import OmniFedError
from omnifed.files import locked
from omnifed.trust.authority import admit, found, rotate
from omnifed.trust.enrolment import enrol, join, renew
from omnifed.trust.identity import GUARD, CoordinatorIdentity, SiteIdentity
from omnifed.trust.kit import KIT, open_kit
from omnifed.trust.request import REQUEST, open_request
from omnifed.trust.roster import ROSTER, open_roster
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
    return federation_of(tmp_path, ["ct", "mr"])


def root_of(made: Made) -> SigningKey:
    return SigningKey.load(made.coordinator.folder / "authority" / "root.key")


# Enrolling ------------------------------------------------------------------------------------------------------------


def test_a_request_names_the_keys_of_the_folder(tmp_path: Path) -> None:
    signed = enrol(tmp_path / "identity", "ct", now=NOW)
    request = open_request(signed)
    assert (request.site, request.created, request.previous, request.proof) == ("ct", NOW, "", "")
    assert request.sign == SigningKey.load(tmp_path / "identity" / "site.key").public == signed.key
    # What flower-supernode reads, and the public half of the same.
    private = load_ssh_private_key((tmp_path / "identity" / "node.key").read_bytes(), None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    assert private.curve.name == "secp384r1"
    assert load_ssh_public_key(request.node.encode()) == private.public_key()


def test_enrolling_again_gives_the_same_request(tmp_path: Path) -> None:
    first = enrol(tmp_path / "identity", "ct")
    assert enrol(tmp_path / "identity", "ct") == first
    # A crash before the request was written: the keys are kept.
    (tmp_path / "identity" / "request.json").unlink()
    assert open_request(enrol(tmp_path / "identity", "ct")).sign == first.key


def test_a_lost_key_is_never_made_anew_in_silence(made: Made) -> None:
    folder = made.state("ct") / "identity"
    for name in ("node.key", "site.key"):
        (folder / name).unlink()
        assert refused(enrol, folder, "ct").code == "OF801"
    (folder / "request.json").unlink()
    assert refused(enrol, folder, "ct").code == "OF801"


def test_a_folder_is_of_one_site(tmp_path: Path) -> None:
    enrol(tmp_path / "identity", "ct")
    assert refused(enrol, tmp_path / "identity", "mr").code == "OF809"


def test_a_request_must_be_signed_by_the_key_that_it_names(tmp_path: Path) -> None:
    request = open_request(enrol(tmp_path / "identity", "ct"))
    assert refused(open_request, Signed.seal(REQUEST, request, SigningKey.generate())).code == "OF802"


@pytest.mark.parametrize("node", ["", "ssh-ed25519 AAAA", "{} comment", "{}\n", "{}=", "p256"])
def test_a_request_with_another_kind_of_node_key_is_refused(tmp_path: Path, node: str) -> None:
    request = open_request(enrol(tmp_path / "identity", "ct"))
    small = ec.generate_private_key(ec.SECP256R1()).public_key()
    text = small.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode() if node == "p256" else node
    forged = request.model_copy(update={"node": text.format(request.node)})
    key = SigningKey.load(tmp_path / "identity" / "site.key")
    assert refused(open_request, Signed.seal(REQUEST, forged, key)).code == "OF802"


# Joining --------------------------------------------------------------------------------------------------------------


def test_a_joined_site(made: Made) -> None:
    site = SiteIdentity.load(made.state("ct") / "identity")
    assert site.site == "ct"
    assert site.roster() == made.coordinator.roster()
    assert site.roster().keys_of("ct") == (site.key.public,)
    assert site.node_key.is_file()


def test_before_it_joins_a_site_is_of804(tmp_path: Path) -> None:
    assert refused(SiteIdentity.load, tmp_path).code == "OF804"
    enrol(tmp_path / "identity", "ct")
    assert refused(SiteIdentity.load, tmp_path / "identity").code == "OF804"
    assert refused(renew, tmp_path / "identity").code == "OF804"


def test_a_kit_is_for_one_site_one_folder_and_one_federation(made: Made, tmp_path: Path) -> None:
    folder = made.coordinator.folder
    kit = admit(folder, enrol(made.state("ct") / "identity", "ct"))
    assert refused(join, made.state("mr") / "identity", kit).code == "OF808"
    assert refused(join, tmp_path / "nothing", kit).code == "OF808"
    enrol(tmp_path / "other" / "identity", "ct")
    assert refused(join, tmp_path / "other" / "identity", kit).code == "OF808"
    assert not (tmp_path / "other" / "identity" / "kit.json").exists()
    second = found(tmp_path / "second", "test", "127.0.0.1:8000")
    foreign = admit(second.folder, enrol(made.state("ct") / "identity", "ct"))
    error = refused(join, made.state("ct") / "identity", foreign)
    assert error.code == "OF808"
    assert "fresh state folder" in error.remedy
    assert SiteIdentity.load(made.state("ct") / "identity").kit.root == made.coordinator.about.root


def test_a_kit_signed_by_anybody_else_is_refused(made: Made) -> None:
    thief, kit = SigningKey.generate(), made.sites["ct"].kit
    assert refused(open_kit, Signed.seal(KIT, kit, thief)).code == "OF802"
    # With a root of his own he needs a roster signed by it.
    assert refused(open_kit, Signed.seal(KIT, kit.model_copy(update={"root": thief.public}), thief)).code == "OF802"


def test_a_kit_of_a_site_that_was_revoked_meanwhile_is_refused(made: Made, tmp_path: Path) -> None:
    folder = tmp_path / "us" / "identity"
    kit = admit(made.coordinator.folder, enrol(folder, "us"))
    made.revoke("us")
    # Nobody has told the site yet; who has joined before knows it from the roster that it has seen.
    made.sites["us"] = join(folder, kit)
    made.spread()
    assert refused(join, folder, kit).code == "OF808"
    assert made.sites["us"].roster().standing("us") == "revoked"


@pytest.mark.parametrize(("days", "code"), [(181, "OF803"), (400, "OF803")])
def test_a_late_kit_is_refused(tmp_path: Path, days: int, code: str) -> None:
    identity = found(tmp_path / "coordinator", "test", "127.0.0.1:8000", now=NOW)
    kit = admit(identity.folder, enrol(tmp_path / "identity", "ct", now=NOW), now=NOW)
    assert refused(join, tmp_path / "identity", kit, now=later(days=days)).code == code


def test_a_kit_with_no_valid_term_is_refused(made: Made) -> None:
    member = made.coordinator.held().member("ct")
    assert member is not None
    ended = member.model_copy(update={"terms": (member.terms[0].model_copy(update={"until": later(days=-1)}),)})
    roster = made.coordinator.held().model_copy(update={"members": (ended,), "version": 9})
    root = root_of(made)
    kit = made.sites["ct"].kit.model_copy(update={"roster": Signed.seal(ROSTER, roster, root)})
    assert refused(join, made.state("ct") / "identity", Signed.seal(KIT, kit, root)).code == "OF808"


def test_a_renewed_kit_replaces_and_an_older_one_does_not(made: Made) -> None:
    folder = made.state("ct") / "identity"
    old = Signed.read((folder / "kit.json").read_bytes(), "kit")
    new = admit(made.coordinator.folder, enrol(folder, "ct"), now=later(days=1))
    assert join(folder, new).kit.expires == later(days=366)
    assert refused(join, folder, old).code == "OF808"
    # The same once more does no harm.
    assert join(folder, new).kit.expires == later(days=366)


def test_a_kit_whose_roster_was_overtaken_is_taken_with_the_newer_roster(made: Made) -> None:
    folder = made.state("ct") / "identity"
    kit = admit(made.coordinator.folder, enrol(folder, "ct"))
    made.admit("us")
    made.sites["ct"].accept(made.coordinator.signed_roster())
    assert join(folder, kit).roster() == made.coordinator.roster()


def test_a_kit_never_overtakes_a_roster_that_a_task_brings_at_the_same_moment(made: Made) -> None:
    folder = made.state("ct") / "identity"
    kit = admit(made.coordinator.folder, enrol(folder, "ct"))
    made.revoke("mr")
    joining = Thread(target=join, args=(folder, kit))
    with locked(folder / GUARD):
        joining.start()
        joining.join(0.5)
        assert joining.is_alive()
        made.sites["ct"].accept(made.coordinator.signed_roster())
    joining.join()
    assert SiteIdentity.load(folder).roster().standing("mr") == "revoked"


# Rotating -------------------------------------------------------------------------------------------------------------


def test_old_keys_work_until_the_answer_is_joined(made: Made) -> None:
    folder = made.state("ct") / "identity"
    old, node = made.sites["ct"].key.public, made.sites["ct"].node_key.read_bytes()
    request = renew(folder)
    assert renew(folder) == request
    assert open_request(request).previous == old
    assert SiteIdentity.load(folder).key.public == old
    kit = admit(made.coordinator.folder, request)
    assert SiteIdentity.load(folder).key.public == old
    new = join(folder, kit)
    assert new.key.public == open_request(request).sign != old
    assert new.node_key.read_bytes() != node
    assert new.roster().keys_of("ct") == (old, new.key.public)
    assert not (folder / "next").exists()
    assert enrol(folder, "ct") == request
    assert open_request(renew(folder)).previous == new.key.public


def test_an_answer_to_the_old_keys_leaves_the_new_ones_waiting(made: Made) -> None:
    folder = made.state("ct") / "identity"
    renew(folder)
    kit = admit(made.coordinator.folder, enrol(folder, "ct"))
    assert join(folder, kit).key.public == made.sites["ct"].key.public
    assert (folder / "next" / "request.json").is_file()


@pytest.mark.parametrize("writes", range(6))
def test_a_crash_while_switching_over_leaves_what_works(made: Made, monkeypatch, writes: int) -> None:
    folder = made.state("ct") / "identity"
    request = renew(folder)
    kit, rename, count = admit(made.coordinator.folder, request), os.replace, 0

    def failing(source, target) -> None:
        nonlocal count
        if count == writes:
            raise KeyboardInterrupt
        count += 1
        rename(source, target)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(KeyboardInterrupt):
        join(folder, kit)
    monkeypatch.setattr(os, "replace", rename)
    between = SiteIdentity.load(folder)
    assert between.key.public in made.coordinator.roster().keys_of("ct")
    after = join(folder, kit)
    assert after.key.public == open_request(request).sign
    assert enrol(folder, "ct") == request
    assert not (folder / "next").exists() or not os.listdir(folder / "next")


# Rosters that come with tasks -----------------------------------------------------------------------------------------


def test_a_rollback_of_the_roster_is_refused_after_a_restart_too(made: Made) -> None:
    old = made.coordinator.signed_roster()
    made.revoke("mr")
    made.sites["ct"].accept(made.coordinator.signed_roster())
    for site in (made.sites["ct"], SiteIdentity.load(made.state("ct") / "identity")):
        assert refused(site.accept, old).code == "OF803"
        assert site.roster().standing("mr") == "revoked"


def test_two_rosters_of_one_version_are_refused(made: Made) -> None:
    other = made.coordinator.held().model_copy(update={"members": ()})
    assert refused(made.sites["ct"].accept, Signed.seal(ROSTER, other, root_of(made))).code == "OF803"


def test_a_roster_of_anybody_else_is_refused(made: Made) -> None:
    forged = Signed.seal(ROSTER, made.coordinator.held().model_copy(update={"version": 99}), made.coordinator.key)
    assert refused(made.sites["ct"].accept, forged).code == "OF802"


def test_a_site_takes_a_new_roster_after_the_one_it_held_has_expired(tmp_path: Path) -> None:
    """A site that was away for long: its kit's roster is no hindrance."""
    made = federation_of(tmp_path, ["ct"], now=later(days=-200))
    site = SiteIdentity.load(made.state("ct") / "identity")
    assert refused(site.roster).code == "OF803"
    rotate(made.coordinator.folder)
    assert site.accept(CoordinatorIdentity.load(made.coordinator.folder).signed_roster()).version == 3
    assert SiteIdentity.load(made.state("ct") / "identity").roster().standing("ct") == "member"


# Altered files --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Made, dict[str, bytes]]:
    made = federation_of(tmp_path_factory.mktemp("files"), ["ct"])
    folder = made.state("ct") / "identity"
    return made, {name: (folder / f"{name}.json").read_bytes() for name in ("kit", "roster", "request")}


def opened(made: Made, name: str, data: bytes) -> object:
    signed = Signed.read(data, name)
    if name == "roster":
        return open_roster(signed, made.coordinator.about.root)
    return open_kit(signed) if name == "kit" else open_request(signed)


@pytest.mark.parametrize("name", ["kit", "roster", "request"])
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_single_flipped_byte_is_refused_or_changes_nothing(files, name: str, data: st.DataObject) -> None:
    made, whole = files
    text = bytearray(whole[name])
    text[data.draw(st.integers(0, len(text) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        outcome = opened(made, name, bytes(text))
    except OmniFedError as error:
        outcome = error.code
    assert outcome in ("OF802", opened(made, name, whole[name]))


@pytest.mark.parametrize("name", ["kit", "roster", "request"])
def test_a_file_cut_anywhere_is_refused(files, name: str) -> None:
    made, whole = files
    for length in range(0, len(whole[name]), 37):
        assert refused(opened, made, name, whole[name][:length]).code == "OF802"


def test_one_document_is_not_taken_for_another(files) -> None:
    made, whole = files
    for name in whole:
        for other in whole:
            if name != other:
                assert refused(opened, made, name, whole[other]).code == "OF802"


def test_an_altered_file_in_the_sites_folder_is_refused(files, tmp_path: Path) -> None:
    made, _ = files
    folder = tmp_path / "identity"
    shutil.copytree(made.state("ct") / "identity", folder)
    (folder / "roster.json").write_bytes((folder / "roster.json").read_bytes().replace(b"member", b"nember"))
    assert refused(SiteIdentity.load(folder).roster).code == "OF802"
    (folder / "kit.json").write_bytes(b"{}")
    assert refused(SiteIdentity.load, folder).code == "OF802"
