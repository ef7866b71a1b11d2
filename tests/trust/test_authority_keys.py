"""The authority's keys on disk: encrypted with a passphrase, opened with no other, changed without a moment between."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from made import federation_of

from omnifed.errors import OmniFedError
from omnifed.trust.authority import admit, change_passphrase, found, revoke, rotate
from omnifed.trust.authority_keys import AuthorityKeys
from omnifed.trust.enrolment import enrol

PHRASE, OTHER = "five words out of a hat", "correct horse battery staple"


def code(call, *arguments, **options) -> str:
    with pytest.raises(OmniFedError) as caught:
        call(*arguments, **options)
    return caught.value.code


def says(passphrase: str):
    return lambda: passphrase


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return found(tmp_path / "coordinator", "test", "127.0.0.1:8000", passphrase=PHRASE).folder


def test_both_keys_are_encrypted_as_openssl_knows_it(folder: Path) -> None:
    for name in ("root.key", "ca.key"):
        file = folder / "authority" / name
        assert file.read_bytes().startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")
        assert file.stat().st_mode & 0o777 == 0o600
        for phrase, status in ((PHRASE, 0), (OTHER, 1)):
            command = ["openssl", "pkey", "-in", str(file), "-passin", f"pass:{phrase}", "-noout"]
            assert subprocess.run(command, capture_output=True).returncode == status
    # What a coordinator needs to run is in clear: it starts without anybody.
    assert b"ENCRYPTED" not in (folder / "sign.key").read_bytes() + (folder / "server.key").read_bytes()


def test_nothing_is_signed_without_the_passphrase(folder: Path, tmp_path: Path) -> None:
    request = enrol(tmp_path / "identity", "ct")
    before = (folder / "roster.json").read_bytes()
    for call, *arguments in ((admit, request), (revoke, "ct"), (rotate,)):
        for options in ({}, {"passphrase": says(OTHER)}, {"passphrase": says("")}):
            assert code(call, folder, *arguments, **options) == "OF816"
    assert (folder / "roster.json").read_bytes() == before
    assert not list(folder.glob("*.next"))
    admit(folder, request, passphrase=says(PHRASE))
    assert rotate(folder, passphrase=says(PHRASE)).version == 3
    assert revoke(folder, "ct", passphrase=says(PHRASE)).standing("ct") == "revoked"


def test_keys_in_clear_ask_nobody(tmp_path: Path) -> None:
    folder = federation_of(tmp_path, ["ct"]).coordinator.folder
    assert rotate(folder, passphrase=lambda: pytest.fail("asked")).version == 3


def test_a_damaged_encrypted_key_is_not_opened(folder: Path) -> None:
    file = folder / "authority" / "root.key"
    file.write_bytes(file.read_bytes()[:90])
    assert code(rotate, folder, passphrase=says(PHRASE)) == "OF816"
    file.write_bytes((folder / "authority" / "ca.key").read_bytes())
    assert code(rotate, folder, passphrase=says(PHRASE)) == "OF801"


def test_a_passphrase_is_set_changed_and_removed(tmp_path: Path) -> None:
    folder = found(tmp_path / "coordinator", "test", "127.0.0.1:8000").folder
    root = AuthorityKeys.load(folder / "authority").root.public
    for old, new in (("", PHRASE), (PHRASE, OTHER), (OTHER, "")):
        if old:
            assert code(change_passphrase, folder, says(new), passphrase=says("wrong")) == "OF816"
        change_passphrase(folder, says(new), passphrase=says(old))
        assert AuthorityKeys.load(folder / "authority", says(new)).root.public == root
        assert rotate(folder, passphrase=says(new)).coordinator_keys()
    assert sorted(os.listdir(folder / "authority")) == ["ca.key", "root.key", "roster.json"]


@pytest.mark.parametrize(("old", "new"), [("", PHRASE), (PHRASE, OTHER), (PHRASE, "")])
@pytest.mark.parametrize("writes", range(3))
def test_a_crash_in_a_change_leaves_one_passphrase(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str, writes: int
) -> None:
    """The power fails after that many renamed files; the second is ``root.key``."""
    folder = found(tmp_path / "coordinator", "test", "127.0.0.1:8000", passphrase=old).folder
    rename, count = os.replace, 0

    def failing(source, target) -> None:
        nonlocal count
        if count == writes:
            raise KeyboardInterrupt
        count += 1
        rename(source, target)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(KeyboardInterrupt):
        change_passphrase(folder, says(new), passphrase=says(old))
    monkeypatch.setattr(os, "replace", rename)
    holds, fails = (new, old) if writes == 2 else (old, new)
    if holds:
        assert code(rotate, folder, passphrase=says(fails)) == "OF816"
        assert rotate(folder, passphrase=says(holds)).version == 2
    else:
        assert rotate(folder).version == 2
    assert not (folder / "authority" / "ca.key.next").exists()
