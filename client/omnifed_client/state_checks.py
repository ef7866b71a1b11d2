"""What can be wrong with the folder in which a site keeps its state, and the stamp that says whose it is."""

from __future__ import annotations

import json
import os
import stat
import tempfile
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import omnifed
from omnifed.errors import OmniFedError
from omnifed.files import write_json
from omnifed.trust.audit import FOLDER, AuditLog, own_keys
from omnifed.trust.identity import SiteIdentity
from omnifed.trust.policy import FILE, read_policy
from omnifed_client.checks import Finding, unexamined
from omnifed_client.config import ClientConfig

STAMP = "version.json"
"""In the state folder: which version wrote it, for which site."""
SOON_DAYS = 14
_REVIEW = "Review policy.toml, then: omnifed-client policy sign --site NAME"


def check_disk(config: ClientConfig) -> Finding:
    """Free space where the state will lie."""
    folder = existing_parent(config.state)
    try:
        found = os.statvfs(folder)
    except OSError as error:
        return Finding("disk", "fail", f"{folder}: {error.strerror}", "Give another --state folder.", "OF139")
    free_gb = found.f_bavail * found.f_frsize / 1e9
    seen = f"{free_gb:.1f} GB free at {folder}, wanted {config.min_free_gb:g}"
    if free_gb < config.min_free_gb:
        return Finding("disk", "fail", seen, "Free space, or give a --state folder on another disk.", "OF139")
    return Finding("disk", "ok", seen)


def check_state(config: ClientConfig) -> Finding:
    """Whether the state folder can be written, and is closed to others."""
    folder = existing_parent(config.state)
    remedy = f"Give a --state folder that user {os.getuid()} may write, or change its owner."
    try:
        # Asked by doing: permission bits say nothing about read-only mounts, quotas and access lists.
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0" * 4096)
            file.flush()
    except OSError as error:
        return Finding("state folder", "fail", f"{folder}: {error.strerror or error}", remedy, "OF140")
    if folder != config.state:
        return Finding("state folder", "ok", f"{config.state} will be made")
    mode = stat.S_IMODE(folder.stat().st_mode)
    if mode & 0o077:
        seen = f"{folder} has mode {mode:04o}: others can read what derives from patient data"
        return Finding("state folder", "warn", seen, f"Run: chmod 700 {folder}", "OF140")
    return Finding("state folder", "ok", f"{folder}, writable, mode {mode:04o}")


def check_stamp(config: ClientConfig) -> Finding:
    """Whether an earlier state is this site's, and of a version that this one can go on from."""
    path = config.state / STAMP
    away = "move the state folder away: the site then trains its teacher again"
    try:
        stamp = json.loads(path.read_text(encoding="utf-8"))
        site, version = str(stamp["site"]), str(stamp["omnifed"])
    except FileNotFoundError:
        return Finding("earlier state", "ok", "none")
    except (OSError, ValueError, KeyError, TypeError):
        seen = f"{path} cannot be read"
        return Finding("earlier state", "warn", seen, f"Remove that file, or {away}.", "OF140")
    if site != config.site:
        remedy = "Give each site its own --state folder: teachers and models of two sites must not mix."
        return Finding("earlier state", "fail", f"it belongs to site {site}", remedy, "OF140")
    theirs, ours = _release(version), _release(omnifed.__version__)
    seen = f"written by omnifed {version}, this is {omnifed.__version__}"
    if theirs > ours:
        return Finding("earlier state", "fail", seen, f"Install omnifed {version} or later, or {away}.", "OF140")
    if theirs < ours:
        remedy = f"Finish a running campaign with omnifed {version}; for a new one {away}."
        return Finding("earlier state", "warn", seen, remedy, "OF140")
    return Finding("earlier state", "ok", seen)


def check_policy(config: ClientConfig) -> Finding:
    """Whether the site's policy is in force."""
    if config.insecure and not (config.identity / FILE).is_file():
        return Finding("policy", "ok", "none: with --insecure nothing is forbidden")
    try:
        # What other findings are about (no identity) is no second failure here.
        keys = None if config.insecure else own_keys(SiteIdentity.load(config.identity))
    except OmniFedError:
        return unexamined("policy")
    if not (config.identity / FILE).is_file() and not (config.state / FOLDER).exists():
        return Finding("policy", "warn", "none yet: the first start writes a cautious one", _REVIEW, "OF820")
    try:
        policy = read_policy(config.identity, keys)
    except OmniFedError as error:
        return Finding("policy", "fail", error.seen, error.remedy, error.code)
    left = (policy.expires - datetime.now(UTC).date()).days
    seen = f"in force until {policy.expires}, modes {', '.join(policy.modes)}"
    return Finding("policy", "warn", seen, _REVIEW, "OF821") if left < SOON_DAYS else Finding("policy", "ok", seen)


def check_audit(config: ClientConfig) -> Finding:
    """Whether the audit log is whole."""
    try:
        identity = None if config.insecure else SiteIdentity.load(config.identity)
    except OmniFedError:
        return unexamined("audit log")
    if identity is None:
        return Finding("audit log", "ok", "none with --insecure")
    try:
        head = AuditLog.of(config.state, identity).verify() if (config.state / FOLDER).exists() else None
    except OmniFedError as error:
        return Finding("audit log", "fail", error.seen, error.remedy, error.code)
    return Finding("audit log", "ok", f"{head.count} entries, whole" if head else "no entry yet")


def stamp_state(config: ClientConfig) -> None:
    """Makes the state folder (mode 0700) and notes in it whose it is; the client calls this when it starts.

    Raises:
        OmniFedError: OF103 if it cannot be written.
    """
    with_mode = not config.state.exists()
    write_json(config.state / STAMP, {"omnifed": omnifed.__version__, "site": config.site}, mode=0o600)
    if with_mode:
        config.state.chmod(0o700)


def _release(version: str) -> tuple[int, int]:
    """The part of a version that may change what is on disk: (major, minor)."""
    numbers = [int(part) if part.isdigit() else 0 for part in version.split(".")[:2]]
    return next(pairwise([*numbers, 0, 0]))


def existing_parent(path: Path) -> Path:
    """``path``, or the nearest folder above it that exists."""
    path = path.absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    return path
