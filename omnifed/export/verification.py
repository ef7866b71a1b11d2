"""What can be said of a model file: checked one after the other, the signature before a byte of the model is parsed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from omnifed.config import Frozen
from omnifed.errors import OmniFedError
from omnifed.export.card import KEY
from omnifed.export.limits import MOST_BYTES, refuse_strange
from omnifed.export.seal import SEAL, check_seal
from omnifed.export.session import read_card
from omnifed.export.wire import metadata, refuse_external_data
from omnifed.trust.anchor import Anchor
from omnifed.trust.artefact import read_regular
from omnifed.trust.manifest import (
    Manifest,
    check_card,
    check_content,
    manifest_path,
    read_manifest,
    stranger,
    unlike,
)
from omnifed.trust.signing import fingerprint

SKEW = timedelta(minutes=5)
"""By how much a signer's clock may be ahead."""
Result = Literal["verified", "intact", "refused"]


class Check(Frozen):
    """One row of a verdict.

    Attributes:
        name: what was looked at.
        state: ``ok``; ``failed``; ``open``: it could not be told.
        detail: what was seen.
        code: number of the error behind ``failed``.
    """

    name: str
    state: Literal["ok", "open", "failed"]
    detail: str
    code: str = ""


class Verdict(Frozen):
    """What can be said of a model.

    Attributes:
        result: ``verified``: whole, and signed by a member of the federation whose root the user named; ``intact``:
            whole, but nobody vouches for who made it; ``refused``: do not use it.
        checks: in the order in which they were made; it ends with the first that failed.
        manifest: where its signature is that of the key that it names.
    """

    result: Result
    checks: tuple[Check, ...]
    manifest: Manifest | None = None


@dataclass
class _Course:
    """A verification on its way."""

    path: Path
    beside: Path
    anchor: Anchor | None
    now: datetime
    checks: list[Check] = field(default_factory=list)
    model: bytes = b""
    manifest: Manifest | None = None
    error: OmniFedError | None = None

    def run(self) -> Result:
        for name, check in STEPS.items():
            try:
                state, detail = check(self)
            except OmniFedError as error:
                self.error = error
                self.checks.append(Check(name=name, state="failed", detail=error.seen, code=error.code))
                return "refused"
            self.checks.append(Check(name=name, state=state, detail=detail))
        return "verified" if all(check.state == "ok" for check in self.checks) else "intact"


Found = tuple[Literal["ok", "open"], str]


def verify_model(
    path: Path, *, manifest: Path | None = None, anchor: Anchor | None = None, now: datetime | None = None
) -> Verdict:
    """Checks a model file.

    Args:
        path: the ONNX file.
        manifest: None takes the one beside it.
        anchor: federation whose members are trusted; without one nobody's signature is.
        now: for tests.
    """
    course = _Course(path, manifest or manifest_path(path), anchor, now or datetime.now(UTC))
    result = course.run()
    return Verdict(result=result, checks=tuple(course.checks), manifest=course.manifest)


def read_verified(path: Path, anchor: Anchor, *, now: datetime | None = None) -> bytes:
    """Content of a model that a member of the federation has signed; what was checked is what is returned.

    Args:
        path: the ONNX file, its manifest beside it.
        anchor: federation whose members are trusted.
        now: for tests.

    Raises:
        OmniFedError: of the check that failed; OF873 if all hold but the signer is not vouched for any more.
    """
    course = _Course(path, manifest_path(path), anchor, now or datetime.now(UTC))
    if course.run() == "verified":
        return course.model
    raise course.error or stranger("; ".join(check.detail for check in course.checks if check.state == "open"))


def _file(course: _Course) -> Found:
    course.model = read_regular(course.path, MOST_BYTES)
    return "ok", f"{len(course.model)} bytes"


def _signature(course: _Course) -> Found:
    try:
        course.manifest = read_manifest(course.beside)
    except OmniFedError as error:
        if error.code == "OF872" and course.anchor is None:
            return "open", "unsigned: no manifest beside it"
        raise
    return "ok", f"of the key {fingerprint(course.manifest.key)}"


def _content(course: _Course) -> Found:
    if course.manifest is None:
        return "open", "no sha256 to compare with"
    check_content(course.manifest, course.model)
    return "ok", f"sha256 {course.manifest.sha256}"


def _signer(course: _Course) -> Found:
    if course.anchor is None or course.manifest is None:
        said = "" if course.manifest is None else f"it says {course.manifest.site} of {course.manifest.federation}; "
        return "open", f"{said}whose key it is was NOT checked: no --kit, no --roster with --root"
    manifest, roster = course.manifest, course.anchor.roster
    if manifest.federation != roster.federation:
        raise stranger(f"signed for {manifest.federation}, the roster is {roster.federation}'s")
    if manifest.created > course.now + SKEW:
        raise stranger(f"signed in the future, {manifest.created:%Y-%m-%d %H:%M}")
    standing = roster.standing(manifest.site, manifest.created)
    if manifest.key not in roster.keys_of(manifest.site, manifest.created):
        why = "with a key that was not its own then" if standing == "member" else f"when it was {standing}"
        raise stranger(f"signed by {manifest.site} {why} ({manifest.created:%Y-%m-%d %H:%M})")
    return "ok", f"{manifest.site}, member of {manifest.federation} on {manifest.created:%Y-%m-%d}"


def _revocation(course: _Course) -> Found:
    if course.anchor is None or course.manifest is None:
        return "open", "not checked"
    roster = course.anchor.roster
    member = roster.member(course.manifest.site)
    if member is not None and member.revoked is not None:
        # The date is the signer's own word: had its key been stolen, the thief would have dated back.
        return "open", f"{member.site} was revoked on {member.revoked:%Y-%m-%d}: ask the federation about its models"
    return "ok", f"not revoked; roster {roster.version} of {roster.issued:%Y-%m-%d}"


def _seal(course: _Course) -> Found:
    refuse_external_data(course.model)
    if SEAL not in metadata(course.model):
        raise unlike("no check sum inside, as every export of OmniFed has it")
    check_seal(course.model)
    return "ok", "as the export wrote it"


def _graph(course: _Course) -> Found:
    refuse_strange(course.model)
    return "ok", "one graph of standard operators, no other files"


def _card(course: _Course) -> Found:
    text = metadata(course.model).get(KEY, "")
    card = read_card(text)
    if course.manifest is not None:
        check_card(course.manifest, text)
    return "ok", f"{len(card.labels)} labels, {card.precision}; {card.notice}"


STEPS: dict[str, Callable[[_Course], Found]] = {
    "file": _file,
    "manifest": _signature,
    "content": _content,
    "signer": _signer,
    "revocation": _revocation,
    "check sum": _seal,
    "graph": _graph,
    "card": _card,
}
"""The model is parsed from the check sum on: with an anchor, only if a member has signed these bytes."""
