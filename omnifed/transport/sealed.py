"""Signed envelopes around the messages: put on and checked at both ends, before anything of a message is used.

Here is what both ends read of a message; they are :mod:`~omnifed.transport.coordinator_seal` and
:mod:`~omnifed.transport.site_seal`. Without an identity (in process, under Ray, ``--insecure``) there is none of this
and messages are as they were.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from omnifed.errors import OmniFedError
from omnifed.transport.flower_compat import ArrayRecord, ConfigRecord, RecordDict
from omnifed.transport.records import HEAD, STATE
from omnifed.trust.envelope import Envelope, untrue
from omnifed.trust.signing import Signed

ENVELOPE, ROSTER = "envelope", "roster"
"""Keys of the head, beside ``body`` and ``layout``."""
KNOWN = {"body", "layout", ENVELOPE, ROSTER}


@dataclass(frozen=True)
class Posted:
    """The envelope of a task that was sent, and its digest."""

    envelope: Envelope
    digest: str


def content_hash(record: RecordDict, arrays: str) -> str:
    """What an envelope says of a message: sha256 (hex) over text, layout, roster and arrays, each with its length.

    Args:
        record: the message's content.
        arrays: :func:`~omnifed.transport.records.array_hash` of its arrays.
    """
    found = hashlib.sha256()
    for part in (*(text_of(record, key).encode() for key in ("body", "layout", ROSTER)), arrays.encode()):
        found.update(len(part).to_bytes(8, "big"))
        found.update(part)
    return found.hexdigest()


def envelope_of(record: RecordDict) -> Signed:
    """The envelope in a message's head, not yet found true.

    Raises:
        OmniFedError: OF818 if there is none, or a head with more than it may hold.
    """
    if set(head_of(record)) - KNOWN:
        raise untrue("a head with more than it may hold")
    if not (text := text_of(record, ENVELOPE)):
        raise untrue("a message without envelope")
    try:
        return Signed.read(text.encode(), "the envelope")
    except OmniFedError as error:
        raise untrue(error.seen) from None


def head_of(record: RecordDict) -> ConfigRecord:
    """A message's head.

    Raises:
        OmniFedError: OF818 if it has none.
    """
    head = record.get(HEAD)
    if not isinstance(head, ConfigRecord):
        raise untrue("a message without head")
    return head


def text_of(record: RecordDict, key: str) -> str:
    """A text of the head; "" where it has none of that name.

    Raises:
        OmniFedError: OF818 if it is no text.
    """
    value = head_of(record).get(key, "")
    if not isinstance(value, str):
        raise untrue(f"{key} is no text")
    return value


def arrays_of(record: RecordDict) -> ArrayRecord:
    """A message's arrays.

    Raises:
        OmniFedError: OF818 if it has none.
    """
    arrays = record.get(STATE)
    if not isinstance(arrays, ArrayRecord):
        raise untrue("a message without arrays")
    return arrays
