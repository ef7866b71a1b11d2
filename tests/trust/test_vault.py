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


@pytest.mark.parametrize("size", [17, 32, 33, 48, 100])
def test_a_long_text_is_sealed_in_pieces_and_every_changed_byte_is_found(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vault, "PIECE", 16)
    data = bytes(range(size))
    sealed = vault.seal(KEY, "x", data)
    assert len(sealed) == 12 + size + 16 * -(-size // 16)
    assert vault.open(KEY, "x", sealed) == data
    for at in range(len(sealed)):
        with pytest.raises(OmniFedError, match="OF875"):
            vault.open(KEY, "x", sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :])
        with pytest.raises(OmniFedError, match="OF875"):
            vault.open(KEY, "x", sealed[:at])


def test_pieces_neither_change_places_nor_come_from_another_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vault, "PIECE", 16)
    one, two = (vault.seal(KEY, "x", bytes(64)) for _ in range(2))
    first, second, rest = one[12:44], one[44:76], one[76:]
    start = one[:12]
    for changed in (
        start + second + first + rest,
        start + first + rest,
        start + first + first + second + rest,
        start + two[12:44] + second + rest,
        one + rest[-32:],
    ):
        with pytest.raises(OmniFedError, match="OF875"):
            vault.open(KEY, "x", changed)
    assert vault.open(KEY, "x", start + first + second + rest) == bytes(64)


def test_a_short_text_is_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of earlier releases open."""
    monkeypatch.setattr(vault, "PIECE", 16)
    assert vault.seal(KEY, "x", bytes(16)).startswith(b"OFV1")
    known = bytes.fromhex("4f4656314fc455aecd8e4eaa382ceda53b2c6daa65b61556d438f9f2eb2d2b135fe41f8427")
    assert vault.open(KEY, "x", known) == b"a map"
