"""X.509 (RFC 5280) for the coordinator's TLS: the federation's own authority, and the certificate of the server."""

from __future__ import annotations

import ipaddress
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from omnifed.errors import OmniFedError
from omnifed.trust.keyfiles import private_pem

CA_TERM = timedelta(days=3650)
SERVER_TERM = timedelta(days=90)
SKEW = timedelta(minutes=10)
"""What is new is valid since a little earlier, for machines whose clocks are behind."""


def make_authority(name: str, now: datetime) -> tuple[ec.EllipticCurvePrivateKey, bytes]:
    """A certificate authority for one federation.

    Returns:
        Private key (EC P-384), and certificate, PEM.
    """
    key = ec.generate_private_key(ec.SECP384R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"OmniFed {name}")])
    own = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    certificate = (
        _builder(subject, subject, key, now, CA_TERM)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own), critical=False)
        .sign(key, hashes.SHA384())
    )
    return key, certificate.public_bytes(Encoding.PEM)


def make_server(host: str, ca: bytes, ca_key: ec.EllipticCurvePrivateKey, now: datetime) -> tuple[bytes, bytes]:
    """A TLS certificate for the coordinator.

    Args:
        host: name or address by which sites reach it; this machine's own are added.
        ca: certificate of the authority, PEM.
        ca_key: its private key.
        now: start of the term, less :data:`SKEW`.

    Returns:
        Private key (EC P-256) and certificate, PEM.

    Raises:
        ValueError: ``ca`` is no certificate.
    """
    issuer = x509.load_pem_x509_certificate(ca)
    key = ec.generate_private_key(ec.SECP256R1())
    hosts = dict.fromkeys((host, "localhost", "127.0.0.1", "::1"))
    theirs = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    # A common name holds 64 characters at most; clients look at the alternative names alone.
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host[:64])])
    certificate = (
        _builder(subject, issuer.subject, key, now, SERVER_TERM)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_name(each) for each in hosts]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(theirs), critical=False)
        .sign(ca_key, hashes.SHA384())
    )
    return private_pem(key), certificate.public_bytes(Encoding.PEM)


def ends(certificate: bytes) -> datetime:
    """When a certificate (PEM) expires, with time zone.

    Raises:
        ValueError: it is no certificate.
    """
    return x509.load_pem_x509_certificate(certificate).not_valid_after_utc


def no_certificate(file: Path, error: Exception) -> OmniFedError:
    """The error of a certificate that cannot be used."""
    return OmniFedError(
        "OF802",
        "A certificate is a whole PEM file.",
        seen=f"{file}: {type(error).__name__}",
        remedy="Coordinator: omnifed-server rotate, for server.pem. Site: omnifed-client join KIT once more.",
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime, term: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .not_valid_after(now + term)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
