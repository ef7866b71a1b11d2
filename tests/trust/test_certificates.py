"""The coordinator's certificate in real TLS handshakes, as strict as OpenSSL can be."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from omnifed.trust.authority import found, rotate

NOW = datetime.now(UTC).replace(microsecond=0)
HOST = "omnifed.example.org"


def handshake(server: Path, ca: Path, host: str) -> str:
    """TLS version of a connection to a server with the identity ``server``, by a client that trusts ``ca``."""
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    theirs.load_cert_chain(server / "server.pem", server / "server.key")
    ours = ssl.create_default_context(cafile=str(ca))
    ours.verify_flags |= ssl.VERIFY_X509_STRICT
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        ours.wrap_bio(down, up, server_hostname=host),
        theirs.wrap_bio(up, down, server_side=True),
    ]
    for _ in range(5):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return str(ends[0].version()) if ends[0].getpeercert() else ""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    found(folder / "a", "test", f"{HOST}:443")
    found(folder / "b", "test", f"{HOST}:443")
    found(folder / "old", "test", f"{HOST}:443", now=NOW - timedelta(days=91))
    found(folder / "address", "test", "[2001:db8::1]:443")
    return folder


@pytest.mark.parametrize("host", [HOST, "localhost", "127.0.0.1", "::1"])
def test_a_site_reaches_its_coordinator(folders: Path, host: str) -> None:
    assert handshake(folders / "a", folders / "a" / "ca.pem", host) == "TLSv1.3"


@pytest.mark.parametrize(("host", "ok"), [("2001:db8::1", True), ("2001:db8::2", False)])
def test_a_coordinator_with_an_address_only(folders: Path, host: str, ok: bool) -> None:
    if ok:
        assert handshake(folders / "address", folders / "address" / "ca.pem", host) == "TLSv1.3"
    else:
        with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
            handshake(folders / "address", folders / "address" / "ca.pem", host)


def test_another_federations_coordinator_is_refused(folders: Path) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match=r"certificate signature failure|unable to get local issuer"):
        handshake(folders / "b", folders / "a" / "ca.pem", HOST)


def test_another_host_is_refused(folders: Path) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        handshake(folders / "a", folders / "a" / "ca.pem", "omnifed.example.com")


def test_after_ninety_days_it_is_refused_until_it_is_renewed(folders: Path) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        handshake(folders / "old", folders / "old" / "ca.pem", HOST)
    rotate(folders / "old")
    assert handshake(folders / "old", folders / "old" / "ca.pem", HOST) == "TLSv1.3"


def test_what_the_certificates_say(folders: Path) -> None:
    ca, server = (
        x509.load_pem_x509_certificate((folders / "a" / name).read_bytes()) for name in ("ca.pem", "server.pem")
    )
    assert isinstance(key := ca.public_key(), ec.EllipticCurvePublicKey)
    assert key.curve.name == "secp384r1"
    assert isinstance(key := server.public_key(), ec.EllipticCurvePublicKey)
    assert key.curve.name == "secp256r1"
    assert ca.not_valid_after_utc - ca.not_valid_before_utc == timedelta(days=3650, minutes=10)
    assert server.not_valid_after_utc - server.not_valid_before_utc == timedelta(days=90, minutes=10)
    basic = ca.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (basic.critical, basic.value.ca, basic.value.path_length) == (True, True, 0)
    usage = ca.extensions.get_extension_for_class(x509.KeyUsage).value
    assert (usage.key_cert_sign, usage.digital_signature) == (True, False)
    usage = server.extensions.get_extension_for_class(x509.KeyUsage).value
    assert (usage.key_cert_sign, usage.digital_signature) == (False, True)
    server.verify_directly_issued_by(ca)
