"""Sealed texts open with the same key and purpose, whole and unaltered, and never else."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnifed.errors import OmniFedError
from omnifed.trust import vault
from omnifed.trust.identity import vault_key

KEY = bytes(range(32))


@given(st.binary(max_size=300), st.text(max_size=20))
def test_what_is_sealed_opens_with_the_same_key_and_purpose(data: bytes, purpose: str) -> None:
    sealed = vault.seal(KEY, purpose, data)
    assert len(sealed) == len(data) + vault.OVERHEAD
    assert vault.open(KEY, purpose, sealed) == data


def test_the_text_does_not_show_and_no_two_are_alike() -> None:
    data = b"maps of a patient" * 4
    one, two = vault.seal(KEY, "x", data), vault.seal(KEY, "x", data)
    assert one != two
    assert b"patient" not in one


def test_every_changed_bit_is_found() -> None:
    sealed = vault.seal(KEY, "x", b"abc")
    for bit in range(8 * len(sealed)):
        changed = bytearray(sealed)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(OmniFedError, match="OF875"):
            vault.open(KEY, "x", bytes(changed))


def test_every_cut_is_found() -> None:
    sealed = vault.seal(KEY, "x", b"abc")
    for size in range(len(sealed)):
        with pytest.raises(OmniFedError, match="OF875"):
            vault.open(KEY, "x", sealed[:size])


@pytest.mark.parametrize(("key", "purpose"), [(bytes(32), "x"), (KEY, "y"), (KEY, ""), (KEY[:31], "x"), (b"", "x")])
def test_another_key_or_purpose_does_not_open(key: bytes, purpose: str) -> None:
    with pytest.raises(OmniFedError, match="OF875"):
        vault.open(key, purpose, vault.seal(KEY, "x", b"abc"))


def test_a_key_of_another_size_does_not_seal() -> None:
    with pytest.raises(OmniFedError, match="OF875"):
        vault.seal(KEY[:16], "x", b"abc")


def test_processes_that_make_the_key_at_the_same_moment_get_the_same_one(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(lambda _: vault_key(tmp_path / "identity" / "vault.key"), range(64)))
    assert len(keys) == 1
    assert [path.name for path in (tmp_path / "identity").iterdir()] == ["vault.key"]
