"""What can be wrong with the coordinator's certificate, and with the authorities that are to vouch for it."""

from __future__ import annotations

import os
import ssl
import time
from typing import Any

from omnifed.errors import OmniFedError
from omnifed_client.checks import Finding, unexamined
from omnifed_client.config import ClientConfig
from omnifed_client.reach import Probe, presented, words

EXPIRY_WARN_DAYS = 30
_HOSTNAME_MISMATCH, _IP_MISMATCH, _EXPIRED, _NOT_YET = 62, 64, 10, 9  # X509_V_ERR_* of OpenSSL


def roots_finding(config: ClientConfig, error: Exception) -> Finding:
    """For root certificates that cannot be used at all."""
    where = config.roots or os.environ.get("SSL_CERT_FILE") or os.environ.get("SSL_CERT_DIR") or ""
    remedy = "Give the PEM file of the authority that signed the coordinator's certificate, in ASCII."
    return Finding("tls", "fail", f"root certificates {where}: {words(error)}", remedy, "OF137")


def tls_finding(config: ClientConfig, seen: Probe) -> Finding:
    """Whether the certificate verifies, for this address, for long enough."""
    if config.insecure:
        return Finding("tls", "ok", "off: plain HTTP to this machine")
    if seen.stage == "tls" and seen.error is not None:
        return _tls_failed(config, seen.error)
    if not seen.certificate:
        return unexamined("tls")
    days = (ssl.cert_time_to_seconds(seen.certificate["notAfter"]) - time.time()) / 86400
    names = ", ".join(certificate_names(seen.certificate))
    what = f"verified for {config.host} (certificate of {names}), {days:.0f} days left"
    if days < EXPIRY_WARN_DAYS:
        return Finding("tls", "warn", what, "Ask the coordinator's operator to renew the certificate in time.", "OF137")
    return Finding("tls", "ok", what)


def _tls_failed(config: ClientConfig, error: Exception) -> Finding:
    if not isinstance(error, ssl.SSLCertVerificationError):
        why, remedy = (
            f"no TLS at {config.server}: {words(error)}",
            "Check the port: TLS was asked, another protocol spoke.",
        )
        if isinstance(error, ssl.SSLError) and error.reason == "WRONG_VERSION_NUMBER":
            remedy = "The port speaks plain HTTP: start the coordinator with its certificate, or correct the port."
        return Finding("tls", "fail", why, remedy, "OF137")
    shown = presented(config)
    names = ", ".join(certificate_names(shown)) or "not readable"
    if error.verify_code in (_HOSTNAME_MISMATCH, _IP_MISMATCH):
        why = f"the certificate is for {names}; the address tried is {config.host}"
        remedy = "Set `server` to one of these names, or have the certificate issued for this address too."
    elif error.verify_code == _EXPIRED:
        why, remedy = (
            "the certificate has expired",
            "Ask the coordinator's operator for a new one; check the clock here.",
        )
    elif error.verify_code == _NOT_YET:
        why, remedy = "the certificate is not valid yet", "Set the clock of this machine (see clock)."
    else:
        why = f"the certificate of {names}, issued by {_issuer(shown)}, is not trusted: {error.verify_message}"
        if config.roots and not config.root_certificates:
            stranger = another_authority(config)
            return Finding("tls", "fail", f"{why}; the kit names another authority", stranger.remedy, stranger.code)
        remedy = "Set root_certificates to the PEM file of the coordinator's authority (or of a proxy that opens TLS)."
    return Finding("tls", "fail", why, remedy, "OF137")


def is_untrusted(error: Exception | None) -> bool:
    """Whether a certificate was refused for who has signed it, not for its names or its time."""
    named = (_HOSTNAME_MISMATCH, _IP_MISMATCH, _EXPIRED, _NOT_YET)
    return isinstance(error, ssl.SSLCertVerificationError) and error.verify_code not in named


def another_authority(config: ClientConfig) -> OmniFedError:
    """The error of a site that meets another federation's coordinator, or somebody in between."""
    return OmniFedError(
        "OF813",
        "A site talks to the coordinator of its own federation only: its certificate is signed by the kit's authority.",
        seen=f"{config.server}: signed by another authority than {config.roots}",
        remedy="Check `server`, and with the coordinator's operator that the federation was not founded anew (then "
        "enrol and join again). Behind a proxy that opens TLS set root_certificates to that proxy's authority.",
    )


def certificate_names(certificate: dict[str, Any]) -> list[str]:
    """DNS names and addresses that a certificate is for; its common name where it has none."""
    names = [str(value) for kind, value in certificate.get("subjectAltName", ()) if kind in ("DNS", "IP Address")]
    return names or _common_name(certificate.get("subject", ()))


def _common_name(name: Any) -> list[str]:
    return [str(value) for part in name for key, value in part if key == "commonName"]


def _issuer(certificate: dict[str, Any]) -> str:
    return ", ".join(_common_name(certificate.get("issuer", ()))) or "an unknown authority"
