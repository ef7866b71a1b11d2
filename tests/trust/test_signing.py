"""Signatures: RFC 8032's own vector, one purpose each, and nothing altered passes."""

from __future__ import annotations

import base64
import hashlib
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st

from omnifed.config import Frozen
from omnifed.errors import OmniFedError
from omnifed.trust.signing import Signed, SigningKey, canonical, fingerprint, verify

SEED = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
PUBLIC = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"


class Note(Frozen):
    word: str
    count: int


def key() -> SigningKey:
    return SigningKey(Ed25519PrivateKey.from_private_bytes(SEED))


def code(call, *arguments, **options) -> str:
    with pytest.raises(OmniFedError) as caught:
        call(*arguments, **options)
    return caught.value.code


def test_the_public_key_is_that_of_rfc_8032() -> None:
    assert key().public == PUBLIC


def test_canonical_text_by_hand() -> None:
    assert canonical({"b": 1.5, "a": ["ü", None, True]}) == '{"a":["ü",null,true],"b":1.5}'.encode()
    with pytest.raises(ValueError, match="JSON"):
        canonical(float("nan"))


def test_what_is_signed_by_hand() -> None:
    plain = Ed25519PrivateKey.from_private_bytes(SEED).sign(b"omnifed/1/roster\0message")
    assert key().sign("roster", b"message") == base64.b64encode(plain).decode()
    assert verify(PUBLIC, "roster", b"message", key().sign("roster", b"message"))


@pytest.mark.parametrize(
    ("public", "context", "message", "signature"),
    [
        (PUBLIC, "kit", b"message", None),
        (PUBLIC, "roster", b"massage", None),
        ("00" * 32, "roster", b"message", None),
        ("no hex", "roster", b"message", None),
        (PUBLIC[:-2], "roster", b"message", None),
        (PUBLIC, "roster", b"message", ""),
        (PUBLIC, "roster", b"message", "#" * 88),
        (PUBLIC, "roster", b"message", base64.b64encode(bytes(64)).decode()),
        # The context's end is marked: no other split of the same bytes passes.
        (PUBLIC, "roster\0mess", b"age", None),
    ],
)
def test_another_purpose_message_or_key_is_refused(public, context, message, signature) -> None:
    assert not verify(public, context, message, key().sign("roster", b"message") if signature is None else signature)


def test_a_fingerprint_by_hand() -> None:
    digest = hashlib.sha256(bytes.fromhex(PUBLIC)).hexdigest()
    assert fingerprint(PUBLIC).replace(" ", "") == digest[:32]
    assert [len(group) for group in fingerprint(PUBLIC).split()] == [4] * 8


def test_a_key_is_kept_private_and_comes_back(tmp_path: Path) -> None:
    file = tmp_path / "a.key"
    key().save(file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert SigningKey.load(file).public == PUBLIC


def test_a_key_that_is_no_key_is_of801(tmp_path: Path) -> None:
    file = tmp_path / "a.key"
    assert code(SigningKey.load, file) == "OF801"
    key().save(file)
    file.write_bytes(file.read_bytes()[:-40])
    assert code(SigningKey.load, file) == "OF801"
    other = ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    file.write_bytes(other)
    assert code(SigningKey.load, file) == "OF801"


def test_a_document_comes_back_for_its_context_and_signer_alone() -> None:
    signed = Signed.seal("note", Note(word="a", count=2), key())
    assert signed.body == '{"count":2,"word":"a"}'
    again = Signed.read(signed.to_json(), "a note")
    assert again.open("note", Note, (PUBLIC,), "a note") == Note(word="a", count=2)
    assert code(again.open, "kit", Note, (PUBLIC,), "a note") == "OF802"
    assert code(again.open, "note", Note, (SigningKey.generate().public,), "a note") == "OF802"
    assert code(again.open, "note", Note, (), "a note") == "OF802"


def test_a_signed_text_that_is_no_such_document_is_of802() -> None:
    for body in ('{"count":2}', '{"count":2,"word":"a","x":1}', "[]", "{", ""):
        signed = Signed(body=body, key=PUBLIC, signature=key().sign("note", body.encode()))
        assert code(signed.open, "note", Note, (PUBLIC,), "a note") == "OF802"


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{}", b"\xff", b'{"body":"\\ud800","key":"","signature":""}', b"[" * 100_000]
)
def test_a_file_that_is_no_signed_document_is_of802(data: bytes) -> None:
    assert code(Signed.read, data, "a file") == "OF802"


@given(st.data())
def test_any_flipped_bit_is_refused_or_changes_nothing(data: st.DataObject) -> None:
    whole = Signed.seal("note", Note(word="patient", count=20), key())
    text = bytearray(whole.to_json())
    place = data.draw(st.integers(0, len(text) - 1))
    text[place] ^= 1 << data.draw(st.integers(0, 7))
    try:
        outcome = Signed.read(bytes(text), "a note").open("note", Note, (PUBLIC,), "a note")
    except OmniFedError as error:
        outcome = error.code
    assert outcome in ("OF802", Note(word="patient", count=20))
