"""What is signed around each task and each reply: whose it is, for whom, what it answers, and the hash of its content.

Flower's TLS ends at the coordinator's front and its node signature covers a time stamp only; an envelope covers the
message itself, from the coordinator's key to the site's and back.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import time
from datetime import UTC, datetime

from pydantic import AwareDatetime, Field

from omnifed.config import Frozen
from omnifed.errors import OmniFedError
from omnifed.trust.audit_entry import Anchor
from omnifed.trust.replay import AHEAD, LONGEST, stale
from omnifed.trust.roster import HEX_KEY, Roster
from omnifed.trust.signing import Signed

TASK, REPLY = "task", "reply"
"""Contexts of the signatures: a reply can never pass for a task."""
COORDINATOR = "coordinator"
ANYONE = ""
"""Recipient of a greeting to a node that has not said its name yet."""
HELLO = "hello"
NAME = r"^[A-Za-z0-9_-]{0,63}$"


class Envelope(Frozen):
    """What is signed.

    Attributes:
        federation: name.
        sender: ``coordinator``, or a site's registered name.
        recipient: the other one; :data:`ANYONE` in a greeting alone.
        job: campaign.
        round: of the task; -1 where it has none.
        kind: of the task, in the reply too.
        parent: of a reply, sha256 of the task's envelope; "" in a task.
        number: rises with each message of a sender: its clock's nanoseconds, or one more than the last.
        issued: when, by the sender's clock.
        body: sha256 of the content (:func:`omnifed.transport.sealed.content_hash`).
        audit: where a site's audit log stood.
    """

    federation: str = Field(pattern=NAME)
    sender: str = Field(pattern=NAME)
    recipient: str = Field(pattern=NAME)
    job: str = Field(pattern=NAME)
    round: int = Field(ge=-1)
    kind: str = Field(pattern=NAME)
    parent: str = Field("", pattern=r"^([0-9a-f]{64})?$")
    number: int = Field(ge=0)
    issued: AwareDatetime
    body: str = Field(pattern=HEX_KEY)
    audit: Anchor | None = None


class Numbers:
    """The numbers of one sender: they rise even when its clock is set back."""

    def __init__(self) -> None:
        self._last = 0

    def next(self) -> int:
        """The next one."""
        self._last = max(self._last + 1, time.time_ns())
        return self._last


def digest(signed: Signed) -> str:
    """What a reply to this envelope names as its parent: sha256 of its text, hex."""
    return hashlib.sha256(signed.body.encode()).hexdigest()


def open_task(
    signed: Signed, body: str, *, site: str, federation: str, roster: Roster, now: datetime | None = None
) -> Envelope:
    """The envelope of a task that the coordinator has signed for this site, with this content, and lately.

    Args:
        signed: as it came.
        body: hash of the content that came with it.
        site, federation: who reads.
        roster: that the reader holds.
        now: for tests.

    Raises:
        OmniFedError: OF818 if it is not the coordinator's, not for this site or not about this content; OF819 if it is
            old or from the future. Whether it came before, only :class:`~omnifed.trust.replay.Replay` knows.
    """
    now = now or datetime.now(UTC)
    envelope = _open(signed, TASK, roster.coordinator_keys(now))
    _same("federation", federation, envelope.federation)
    _same("sender", COORDINATOR, envelope.sender)
    if envelope.recipient != ANYONE or envelope.kind != HELLO:
        _same("recipient", site, envelope.recipient)
    _same("parent", "", envelope.parent)
    _same("hash of the content", body, envelope.body)
    newest = now + AHEAD
    if envelope.issued > newest or envelope.number > newest.timestamp() * 1e9:
        raise stale(f"issued {envelope.issued:%Y-%m-%d %H:%M:%S %Z}, more than {AHEAD} ahead of this clock")
    if envelope.issued < now - LONGEST:
        raise stale(f"issued {envelope.issued:%Y-%m-%d %H:%M:%S %Z}, more than {LONGEST} ago")
    return envelope


def open_reply(
    signed: Signed, body: str, *, task: Envelope, parent: str, roster: Roster, now: datetime | None = None
) -> Envelope:
    """The envelope of a reply that the asked site has signed, to this very task, with this content.

    Args:
        signed: as it came.
        body: hash of the content that came with it.
        task: envelope of the task; if it was for :data:`ANYONE`, any member may answer.
        parent: its digest.
        roster: current.
        now: for tests.

    Raises:
        OmniFedError: OF818.
    """
    now = now or datetime.now(UTC)
    claimed = claimed_sender(signed)
    keys = roster.keys_of(claimed, now)
    if not keys:
        raise untrue(f"the sender {claimed!r:.80} is {roster.standing(claimed, now)}")
    envelope = _open(signed, REPLY, keys)
    _same("federation", roster.federation, envelope.federation)
    if task.recipient != ANYONE:
        _same("sender", task.recipient, envelope.sender)
    _same("recipient", COORDINATOR, envelope.recipient)
    _same("parent", parent, envelope.parent)
    for name in ("job", "round", "kind"):
        _same(name, getattr(task, name), getattr(envelope, name))
    _same("hash of the content", body, envelope.body)
    return envelope


def claimed_sender(signed: Signed) -> str:
    """Who an envelope says that it is from; "" if it is none. Nothing is verified: for choosing a key, or a log."""
    try:
        return Envelope.model_validate_json(signed.body).sender
    except ValueError:
        return ""


def untrue(seen: str) -> OmniFedError:
    """The error of a message that is not what its envelope must say."""
    return OmniFedError(
        "OF818",
        "Each message must come in an envelope that its sender has signed for its recipient, its task and its content.",
        seen=seen,
        remedy="See who is in the roster (omnifed-server roster) and whether both ends run the same release; otherwise "
        "somebody on the way changes messages.",
    )


def _open(signed: Signed, context: str, keys: tuple[str, ...]) -> Envelope:
    # One signature has one spelling: base64 leaves unused bits at the end, which a changed message could differ in.
    try:
        spelling = base64.b64encode(base64.b64decode(signed.signature, validate=True)).decode()
    except (binascii.Error, ValueError):
        spelling = ""
    if spelling != signed.signature:
        raise untrue("the signature is no base64")
    try:
        return signed.open(context, Envelope, keys, "the envelope")
    except OmniFedError as error:
        raise untrue(error.seen) from None


def _same(what: str, wanted: object, seen: object) -> None:
    if wanted != seen:
        raise untrue(f"{what}: {seen!r:.80} instead of {wanted!r:.80}")
