"""The coordinator's end of the envelopes: puts them around tasks, and finds out whether a reply's is true."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime

from omnifed.errors import OmniFedError
from omnifed.federation.replies import REPLY as REPLIES
from omnifed.federation.replies import FailedReply, Reply
from omnifed.federation.tasks import Task
from omnifed.states import State
from omnifed.transport.flower_compat import RecordDict
from omnifed.transport.records import Packed, array_hash, body_of, reply_of
from omnifed.transport.sealed import ENVELOPE, ROSTER, Posted, arrays_of, content_hash, envelope_of, head_of
from omnifed.trust.audit_entry import Anchor
from omnifed.trust.envelope import (
    COORDINATOR,
    HELLO,
    TASK,
    Envelope,
    Numbers,
    claimed_sender,
    digest,
    open_reply,
    untrue,
)
from omnifed.trust.identity import CoordinatorIdentity
from omnifed.trust.signing import Signed

OnAnchor = Callable[[str, Anchor], None]
"""``on_anchor(site, anchor)``: where a site's audit log stood when it sent a reply."""


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
        head = head_of(record)
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
            signed = envelope_of(record)
            body = content_hash(record, array_hash(arrays_of(record)))
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
            name = claimed_sender(envelope_of(record))
        except OmniFedError:
            name = getattr(_refusal(record), "site", "")
        return name if self.identity.held().member(name) else ""


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
