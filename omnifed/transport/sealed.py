"""Signed envelopes around the messages: put on and checked at both ends, before anything of a message is used.

Without an identity (in process, under Ray, ``--insecure``) there is none of this and messages are as they were.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from omnifed.errors import OmniFedError
from omnifed.federation.replies import REPLY as REPLIES
from omnifed.federation.replies import FailedReply, Reply
from omnifed.federation.tasks import Task
from omnifed.files import locked
from omnifed.states import State
from omnifed.transport.flower_compat import ArrayRecord, ConfigRecord, RecordDict
from omnifed.transport.records import HEAD, STATE, Packed, array_hash, body_of, reply_of, size_of, to_record
from omnifed.trust.audit import AuditLog
from omnifed.trust.audit_entry import Anchor
from omnifed.trust.envelope import (
    COORDINATOR,
    HELLO,
    REPLY,
    TASK,
    Envelope,
    Numbers,
    claimed_sender,
    digest,
    open_reply,
    open_task,
    untrue,
)
from omnifed.trust.identity import CoordinatorIdentity, SiteIdentity
from omnifed.trust.replay import Replay
from omnifed.trust.signing import Signed

log = logging.getLogger("omnifed.transport")

ENVELOPE, ROSTER = "envelope", "roster"
"""Keys of the head, beside ``body`` and ``layout``."""
KNOWN = {"body", "layout", ENVELOPE, ROSTER}
OnAnchor = Callable[[str, Anchor], None]
"""``on_anchor(site, anchor)``: where a site's audit log stood when it sent a reply."""


@dataclass(frozen=True)
class Posted:
    """The envelope of a task that was sent, and its digest."""

    envelope: Envelope
    digest: str


class CoordinatorSeal:
    """The coordinator's end.

    Args:
        identity: whose key signs tasks; its roster says whose replies count.
        on_anchor: told of each reply that counts.
    """

    def __init__(self, identity: CoordinatorIdentity, on_anchor: OnAnchor = lambda site, anchor: None) -> None:
        self.identity, self.on_anchor = identity, on_anchor
        self._numbers = Numbers()

    def seal(self, record: RecordDict, task: Task, state: Packed, recipient: str) -> Posted:
        """Puts the roster and the envelope into the head of a task's record.

        Args:
            record: of the task.
            task: what it asks.
            state: what travels with it, hashed once for all sites that share it.
            recipient: registered name of the site; ``ANYONE`` in a greeting to a node that has not said it.

        Raises:
            OmniFedError: OF802 or OF803 if the coordinator has no roster of use, OF818 if the site is no member now:
                it gets no weights.
        """
        if task.kind != HELLO and not (roster := self.identity.roster()).keys_of(recipient):
            raise OmniFedError(
                "OF818",
                "A site must be a member of the federation to be asked for anything.",
                seen=f"{recipient}: {roster.standing(recipient)}",
                remedy="Leave it out of the campaign, or admit it again: omnifed-server admit.",
            )
        key, roster_now = self.identity.speaking()
        head = _head(record)
        head[ROSTER] = roster_now.model_dump_json()
        envelope = Envelope(
            federation=self.identity.about.name,
            sender=COORDINATOR,
            recipient=recipient,
            job=task.campaign,
            round=getattr(task, "round", -1),
            kind=task.kind,
            number=self._numbers.next(),
            issued=datetime.now(UTC),
            body=content_hash(record, state.digest),
        )
        signed = Signed.seal(TASK, envelope, key)
        head[ENVELOPE] = signed.model_dump_json()
        return Posted(envelope, digest(signed))

    def open(self, record: RecordDict, posted: Posted | None) -> tuple[Reply, State]:
        """The reply of a record, once its envelope is found true.

        Args:
            record: as it came.
            posted: what was sent in the message that it answers.

        Raises:
            OmniFedError: OF818 if the site that was asked has not signed this answer to this task; OF503 if it is no
                reply; OF802 or OF803 if the coordinator's own roster is of no use.
        """
        if posted is None:
            raise untrue("nothing was asked in this message")
        try:
            signed = _envelope(record)
            body = content_hash(record, array_hash(_arrays(record)))
            roster = self.identity.roster()
            envelope = open_reply(signed, body, task=posted.envelope, parent=posted.digest, roster=roster)
        except OmniFedError as error:
            raise _with_refusal(error, record) from None
        reply, state = reply_of(record)
        if isinstance(reply, FailedReply):
            reply = reply.model_copy(update={"site": envelope.sender})
        elif reply.site != envelope.sender:
            raise untrue(f"{envelope.sender} answers in the name of {reply.site}")
        if envelope.audit is not None:
            self.on_anchor(envelope.sender, envelope.audit)
        return reply, state

    def known_sender(self, record: RecordDict) -> str:
        """Whom a reply claims to be from, if the roster has that name; "" otherwise. For a log, not to rely on."""
        try:
            name = claimed_sender(_envelope(record))
        except OmniFedError:
            name = getattr(_refusal(record), "site", "")
        return name if self.identity.held().member(name) else ""


class Guard(Protocol):
    """A site's end."""

    def answer(self, content: RecordDict, work: Callable[[RecordDict], RecordDict]) -> RecordDict:
        """What a site answers to a message; ``work`` answers one that may be used."""


GuardOf = Callable[[str], Guard | None]
"""Registered name of a site to its guard; None where messages have no envelopes."""


class SiteSeal:
    """The end of a site that has joined: nothing of a message is used before its envelope was found true.

    Args:
        identity: of the site.
        audit: told of all that comes and goes.
    """

    def __init__(self, identity: SiteIdentity, audit: AuditLog) -> None:
        self.identity, self.audit = identity, audit
        self._numbers = Numbers()

    def answer(self, content: RecordDict, work: Callable[[RecordDict], RecordDict]) -> RecordDict:
        """Checks, works, signs. A message that is refused is answered with the number, signed too."""
        parent: Posted | None = None
        try:
            signed = _envelope(content)
            parent = Posted(Envelope.model_validate_json(signed.body), digest(signed))
        except (OmniFedError, ValueError):
            pass
        try:
            self._take(content)
        except OmniFedError as error:
            log.error("a message is refused: %s", error)
            self._note_refusal(error, parent)
            reply = self._failed(error)
        else:
            reply = work(content)
        try:
            return self._close(reply, parent)
        except OmniFedError as error:  # what cannot be audited does not leave
            log.error("a reply is kept: %s", error)
            reply = self._failed(error)
            return self._sign(reply, content_hash(reply, array_hash(_arrays(reply))), parent, None)

    def _take(self, content: RecordDict) -> None:
        identity = self.identity
        signed = _envelope(content)
        # Several messages may come at once, each to its own process: a roster and a number count one after the other.
        with locked(identity.folder / "guard.lock"):
            if text := _text(content, ROSTER):
                self._accept(Signed.read(text.encode(), "the roster"))
            body = content_hash(content, array_hash(_arrays(content)))
            federation, roster = identity.kit.federation, identity.roster()
            envelope = open_task(signed, body, site=identity.site, federation=federation, roster=roster)
            Replay(identity.folder / "replay.json").take(envelope.number)
        if envelope.kind != HELLO:  # greetings come every minute: the answers to them are entries enough
            job, round_, kind = envelope.job, envelope.round, envelope.kind
            self.audit.add("received", kind=kind, round=round_, job=job, envelope=digest(signed))

    def _accept(self, signed: Signed) -> None:
        held = self.identity.held().version
        version = self.identity.accept(signed).version
        if version > held:
            self.audit.add("roster", version=version)

    def _note_refusal(self, error: OmniFedError, parent: Posted | None) -> None:
        try:
            self.audit.add("refused", code=error.code, envelope=parent.digest if parent else "")
        except OmniFedError as broken:
            log.error("%s", broken)

    def _close(self, record: RecordDict, parent: Posted | None) -> RecordDict:
        body = content_hash(record, array_hash(_arrays(record)))
        about = {"kind": parent.envelope.kind, "task": parent.digest} if parent else {}
        anchor = self.audit.add("sent", bytes=size_of(record), body=body, **about)
        return self._sign(record, body, parent, anchor)

    def _sign(self, record: RecordDict, body: str, parent: Posted | None, anchor: Anchor | None) -> RecordDict:
        asked = parent.envelope if parent else None
        envelope = Envelope(
            federation=self.identity.kit.federation,
            sender=self.identity.site,
            recipient=COORDINATOR,
            job=asked.job if asked else "",
            round=asked.round if asked else -1,
            kind=asked.kind if asked else "",
            parent=parent.digest if parent else "",
            number=self._numbers.next(),
            issued=datetime.now(UTC),
            body=body,
            audit=anchor,
        )
        _head(record)[ENVELOPE] = Signed.seal(REPLY, envelope, self.identity.key).model_dump_json()
        return record

    def _failed(self, error: OmniFedError) -> RecordDict:
        reply = FailedReply(id="unknown", site=self.identity.site, code=error.code, rule=error.rule)
        return to_record(reply, {})


def content_hash(record: RecordDict, arrays: str) -> str:
    """What an envelope says of a message: sha256 (hex) over text, layout, roster and arrays, each with its length.

    Args:
        record: the message's content.
        arrays: :func:`~omnifed.transport.records.array_hash` of its arrays.
    """
    found = hashlib.sha256()
    for part in (*(_text(record, key).encode() for key in ("body", "layout", ROSTER)), arrays.encode()):
        found.update(len(part).to_bytes(8, "big"))
        found.update(part)
    return found.hexdigest()


def _envelope(record: RecordDict) -> Signed:
    if set(_head(record)) - KNOWN:
        raise untrue("a head with more than it may hold")
    if not (text := _text(record, ENVELOPE)):
        raise untrue("a message without envelope")
    try:
        return Signed.read(text.encode(), "the envelope")
    except OmniFedError as error:
        raise untrue(error.seen) from None


def _head(record: RecordDict) -> ConfigRecord:
    head = record.get(HEAD)
    if not isinstance(head, ConfigRecord):
        raise untrue("a message without head")
    return head


def _text(record: RecordDict, key: str) -> str:
    value = _head(record).get(key, "")
    if not isinstance(value, str):
        raise untrue(f"{key} is no text")
    return value


def _arrays(record: RecordDict) -> ArrayRecord:
    arrays = record.get(STATE)
    if not isinstance(arrays, ArrayRecord):
        raise untrue("a message without arrays")
    return arrays


def _with_refusal(error: OmniFedError, record: RecordDict) -> OmniFedError:
    """``error``, and the number with which a site refuses that cannot sign: nothing depends on it but a person."""
    refusal = _refusal(record)
    if refusal is None or not re.fullmatch(r"OF\d{3}", refusal.code):
        return error
    rule = f"{error.rule} What came says {refusal.code}."
    return OmniFedError(error.code, rule, seen=error.seen, remedy=error.remedy)


def _refusal(record: RecordDict) -> FailedReply | None:
    try:
        reply = body_of(record, REPLIES)
    except OmniFedError:
        return None
    return reply if isinstance(reply, FailedReply) else None
