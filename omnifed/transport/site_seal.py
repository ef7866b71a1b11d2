"""A site's end of the envelopes: no message is used before its envelope was found true, and replies are signed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol

from omnifed.errors import OmniFedError
from omnifed.federation.replies import FailedReply
from omnifed.files import locked
from omnifed.transport.flower_compat import RecordDict
from omnifed.transport.records import array_hash, size_of, to_record
from omnifed.transport.sealed import ENVELOPE, ROSTER, Posted, arrays_of, content_hash, envelope_of, head_of, text_of
from omnifed.trust.audit import AuditLog
from omnifed.trust.audit_entry import Anchor
from omnifed.trust.envelope import COORDINATOR, HELLO, REPLY, Envelope, Numbers, digest, open_task
from omnifed.trust.identity import GUARD, SiteIdentity
from omnifed.trust.replay import Replay
from omnifed.trust.signing import Signed

log = logging.getLogger("omnifed.transport")


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
            signed = envelope_of(content)
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
            return self._sign(reply, content_hash(reply, array_hash(arrays_of(reply))), parent, None)

    def _take(self, content: RecordDict) -> None:
        identity = self.identity
        signed = envelope_of(content)
        # Several messages may come at once, each to its own process: a roster and a number count one after the other.
        with locked(identity.folder / GUARD):
            if text := text_of(content, ROSTER):
                self._accept(Signed.read(text.encode(), "the roster"))
            body = content_hash(content, array_hash(arrays_of(content)))
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
        body = content_hash(record, array_hash(arrays_of(record)))
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
        head_of(record)[ENVELOPE] = Signed.seal(REPLY, envelope, self.identity.key).model_dump_json()
        return record

    def _failed(self, error: OmniFedError) -> RecordDict:
        reply = FailedReply(id="unknown", site=self.identity.site, code=error.code, rule=error.rule)
        return to_record(reply, {})
