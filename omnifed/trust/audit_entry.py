"""What an audit log holds: entries, each with the hash of the one before, and the head that the site signs.

No patient data: numbers, kinds, ids of tasks and hashes alone, which the schema of the fields enforces.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field

from omnifed.config import Frozen
from omnifed.errors import OmniFedError
from omnifed.trust.roster import HEX_KEY
from omnifed.trust.signing import canonical

FIRST = "0" * 64
"""What the first entry names as the hash of the one before."""
What = Literal[
    "received", "refused", "finished", "failed", "sent", "roster", "policy", "epsilon", "exported", "session"
]
"""A message was taken or turned away, its task ended, a reply left; a roster or a policy is in force; epsilon was
spent, a model exported, a private round revealed its shares."""
Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:+-]{0,200}$")]
"""No space and no slash: neither a sentence nor a path."""


class Anchor(Frozen):
    """Where a log stood: what travels to the coordinator.

    Attributes:
        count: entries.
        hash: of the last one, hex.
    """

    count: int = Field(ge=1)
    hash: str = Field(pattern=HEX_KEY)


class Entry(Frozen):
    """One line of the log.

    Attributes:
        number: 1, 2, ...
        time: when.
        what: what happened.
        fields: details by name.
        previous: hash of the line before.
    """

    number: int = Field(ge=1)
    time: AwareDatetime
    what: What
    fields: dict[Word, bool | int | float | Word] = {}
    previous: str = Field(pattern=HEX_KEY)

    @property
    def hash(self) -> str:
        """sha256 of the entry's JSON, hex."""
        return hashlib.sha256(canonical(self.model_dump(mode="json"))).hexdigest()

    def line(self) -> bytes:
        """Its line, with its hash and the end of line."""
        return canonical({**self.model_dump(mode="json"), "hash": self.hash}) + b"\n"


class Head(Frozen):
    """What ``head.json`` signs.

    Attributes:
        federation, site: whose log.
        count, hash: of the last entry.
        size: bytes of the log with it.
        last: its line.
    """

    federation: str
    site: str
    count: int = Field(ge=1)
    hash: str = Field(pattern=HEX_KEY)
    size: int = Field(ge=1)
    last: str

    @property
    def anchor(self) -> Anchor:
        """What travels."""
        return Anchor(count=self.count, hash=self.hash)


def read_entry(line: bytes, number: int) -> Entry:
    """The entry of a line, byte for byte.

    Raises:
        OmniFedError: OF830 if it is none, or if its hash does not fit it.
    """
    try:
        values = json.loads(line)
        del values["hash"]
        entry = Entry.model_validate(values)
        same = entry.line() == line
    except (ValueError, KeyError, TypeError, RecursionError):
        raise damaged(number, "it is no entry") from None
    if not same:  # byte for byte: JSON has many spellings of one value, and one of them was hashed
        raise damaged(number, "its hash does not fit its text")
    return entry


def damaged(number: int, why: str) -> OmniFedError:
    """The error of a log that somebody has changed, from a line on."""
    return OmniFedError(
        "OF830",
        "Each line of an audit log names the one before, and the signed head names the last.",
        seen=f"line {number}: {why}",
        remedy="Keep the folder as evidence, tell your security officer, compare it with a backup. Moved away, a new "
        "log begins, and the coordinator's anchor shows that it did.",
    )
