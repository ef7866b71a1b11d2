"""A policy holds as it was signed, until its last day."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import pytest

from omnifed.errors import OmniFedError
from omnifed.trust.policy import (
    FILE,
    SIGNATURE,
    Policy,
    load_policy,
    policy_hash,
    read_policy,
    sign_policy,
)
from omnifed.trust.proposal import TERM, first_policy
from omnifed.trust.signing import Signed, SigningKey

KEY = SigningKey.generate()
TODAY = date.today()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    assert first_policy(tmp_path, KEY)
    return tmp_path


def code(folder: Path, trusted: set[str] | None, today: date | None = None) -> str:
    with pytest.raises(OmniFedError) as caught:
        read_policy(folder, trusted, today)
    return caught.value.code


def test_the_first_policy_is_the_default_and_in_force_for_a_year(folder: Path) -> None:
    policy = read_policy(folder, {KEY.public})
    assert policy == Policy(expires=policy.expires)
    assert abs(policy.expires - TODAY - TERM) <= timedelta(days=1)
    assert (folder / FILE).stat().st_mode & 0o777 == (folder / SIGNATURE).stat().st_mode & 0o777 == 0o600
    assert len(policy_hash(folder)) == 64
    assert not first_policy(folder, SigningKey.generate())
    assert read_policy(folder, {KEY.public}) == policy


def test_every_changed_byte_of_file_or_signature_is_refused_or_says_the_same(folder: Path) -> None:
    before = read_policy(folder, {KEY.public})
    for name in (FILE, SIGNATURE):
        content = (folder / name).read_bytes()
        for at in range(0, len(content), 5):
            changed = bytearray(content)
            changed[at] ^= 1
            (folder / name).write_bytes(changed)
            if name == FILE:
                assert code(folder, {KEY.public}) == "OF820"
                continue
            try:
                found: Policy | str = read_policy(folder, {KEY.public})
            except OmniFedError as error:
                found = error.code
            assert found in ("OF820", before)  # white space, or the unused last bits of the signature
        (folder / name).write_bytes(content)


def test_missing_parts_and_other_keys_are_refused(folder: Path) -> None:
    assert code(folder, {SigningKey.generate().public}) == "OF820"
    assert code(folder, set()) == "OF820"
    policy = read_policy(folder, {KEY.public})
    # A signature of the same key for another purpose.
    (folder / SIGNATURE).write_bytes(Signed.seal("audit", policy, KEY).to_json())
    assert code(folder, {KEY.public}) == "OF820"
    (folder / SIGNATURE).unlink()
    assert code(folder, {KEY.public}) == "OF820"
    assert read_policy(folder, None) == policy  # without identity nobody could sign
    (folder / FILE).unlink()
    assert code(folder, {KEY.public}) == code(folder, None) == "OF820"


def test_the_signature_of_an_older_text_does_not_hold_for_a_newer(folder: Path) -> None:
    old = (folder / SIGNATURE).read_bytes()
    text = (folder / FILE).read_text().replace("max_rounds = 200", "max_rounds = 9")
    (folder / FILE).write_text(text)
    assert sign_policy(folder, KEY).max_rounds == 9
    assert read_policy(folder, {KEY.public}).max_rounds == 9
    (folder / SIGNATURE).write_bytes(old)
    assert code(folder, {KEY.public}) == "OF820"


def test_it_holds_through_its_last_day(folder: Path) -> None:
    (folder / FILE).write_text(f"expires = {TODAY}\n")
    sign_policy(folder, KEY)
    assert read_policy(folder, {KEY.public}, TODAY).expires == TODAY
    assert code(folder, {KEY.public}, TODAY + timedelta(days=1)) == "OF821"
    (folder / FILE).write_text("expires = 2020-01-01\n")
    with pytest.raises(OmniFedError, match="OF821"):
        sign_policy(folder, KEY)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("", "OF102"),
        ("expires = 2099-01-01\nmax_round = 3", "OF102"),
        ("expires = 2099-01-01\nepsilon = 9", "OF102"),
        ("expires = 2099-01-01\nmodes = ['all']", "OF102"),
        ("expires = 2099-01-01\n[partners]\nb = 'no'", "OF102"),
        ("expires = ", "OF101"),
        (b"expires = 2099-01-01 # \xff", "OF101"),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, text: str | bytes, number: str) -> None:
    (tmp_path / FILE).write_bytes(text if isinstance(text, bytes) else text.encode())
    for use in (lambda: sign_policy(tmp_path, KEY), lambda: load_policy(tmp_path), lambda: read_policy(tmp_path, None)):
        with pytest.raises(OmniFedError) as caught:
            use()
        assert caught.value.code == number


def test_the_page_and_the_example_say_all_keys(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    page = (root / "docs" / "policy.md").read_text()
    assert all(f"| `{key}` |" in page for key in Policy.model_fields)
    example = (root / "client" / "example" / "policy.toml").read_text()
    (tmp_path / FILE).write_text(example)
    assert load_policy(tmp_path).modes == ("private",)
    assert example.partition("\nexpires")[2].strip() in page
