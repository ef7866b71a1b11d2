"""A site's audit log: hash-chained, signed, and anchored at the coordinator.

``log.jsonl`` holds one entry a line; each names the sha256 of the one before. ``head.json`` is signed by the site's
key and says how many entries there are, the hash of the last one, and its text. The head is written first: a crash
leaves a line that is torn or missing and can be completed from the head, so nothing that was signed is ever lost, and
whatever else differs was done by somebody. Each reply carries count and hash to the coordinator (:class:`Anchor`):
that betrays a log that was rolled back together with its head.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from omnifed.errors import OmniFedError
from omnifed.files import locked, not_written, write_atomic
from omnifed.trust.audit_entry import FIRST, Anchor, Entry, Head, What, damaged, read_entry
from omnifed.trust.identity import SiteIdentity
from omnifed.trust.signing import Signed

AUDIT = "audit"
"""Context of the head's signature."""
FOLDER = "audit"
"""In the state folder of a site."""
LOG, HEAD = "log.jsonl", "head.json"


class AuditLog:
    """The log of one site; several processes may write to it.

    Args:
        folder: where it lies.
        identity: of the site, whose key signs.
    """

    def __init__(self, folder: Path, identity: SiteIdentity) -> None:
        self.folder, self.identity = folder, identity

    @classmethod
    def of(cls, state: Path, identity: SiteIdentity) -> AuditLog:
        """The log in a site's state folder."""
        return cls(state / FOLDER, identity)

    def add(self, what: What, **fields: bool | int | float | str) -> Anchor:
        """Appends one entry; it is on disk before this returns.

        Args:
            what: what happened.
            fields: details; text is words without spaces and slashes.

        Returns:
            Where the log stands now.

        Raises:
            OmniFedError: OF830 if the end of the log is not what was written, OF831 if the head is not this site's,
                OF103 if it cannot be written.
        """
        with locked(self.folder / "lock"):
            head = self._mended()
            count, previous, size = (head.count, head.hash, head.size) if head else (0, FIRST, 0)
            now = datetime.now(UTC)
            entry = Entry(number=count + 1, time=now, what=what, fields=fields, previous=previous)
            line = entry.line()
            about = self.identity.kit
            new = Head(
                federation=about.federation,
                site=about.site,
                count=entry.number,
                hash=entry.hash,
                size=size + len(line),
                last=line.decode(),
            )
            write_atomic(self.folder / HEAD, Signed.seal(AUDIT, new, self.identity.key).to_json(), mode=0o600)
            self._append(size, line)
        return new.anchor

    def verify(self, anchor: Anchor | None = None) -> Head | None:
        """Reads the whole log.

        Args:
            anchor: where the coordinator saw it.

        Returns:
            The head; None if there is no log yet.

        Raises:
            OmniFedError: OF830 with the first bad line, OF831 if the head is absent or not signed by this site, OF832
                if the log was rolled back behind ``anchor``.
        """
        with locked(self.folder / "lock"):
            head = self._head()
            if head is None:
                if anchor is not None:
                    raise _rolled_back(f"no log; the coordinator has seen {anchor.count} entries")
                return None
            hashes = [entry.hash for entry in self._checked(head)]
        if anchor is not None:
            if len(hashes) < anchor.count:
                raise _rolled_back(f"{len(hashes)} entries; the coordinator has seen {anchor.count}")
            if hashes[anchor.count - 1] != anchor.hash:
                raise _rolled_back(f"entry {anchor.count} is another one than the coordinator has seen")
        return head

    def entries(self, last: int) -> list[Entry]:
        """The last entries, oldest first; nothing is verified but their form.

        Raises:
            OmniFedError: OF830 for a line that is no entry.
        """
        path = self.folder / LOG
        lines = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
        start = max(0, len(lines) - last)
        return [read_entry(line, start + k) for k, line in enumerate(lines[start:], 1)]

    def _checked(self, head: Head) -> Iterator[Entry]:
        """The entries, each held against the one before, the last one against the head."""
        previous, number, size = FIRST, 0, 0
        path = self.folder / LOG
        with path.open("rb") if path.is_file() else open(os.devnull, "rb") as file:
            for number, line in enumerate(file, 1):
                entry = read_entry(line, number)
                if entry.number != number or entry.previous != previous:
                    raise damaged(number, "it does not follow the line before")
                if number > head.count:
                    raise damaged(number, f"the signed head ends at {head.count}")
                previous, size = entry.hash, size + len(line)
                yield entry
        if number < head.count:
            raise damaged(number + 1, f"it is missing; the signed head has {head.count} entries")
        if previous != head.hash or size != head.size:
            raise damaged(number, "it is another one than the signed head says")

    def _head(self) -> Head | None:
        """The signed head; None if there is neither head nor log."""
        path, log = self.folder / HEAD, self.folder / LOG
        if not path.is_file():
            if log.is_file() and log.stat().st_size:
                raise _no_head(f"no {path}, but a log")
            return None
        try:
            head = Signed.read(path.read_bytes(), HEAD).open(AUDIT, Head, own_keys(self.identity), HEAD)
        except OmniFedError as error:
            raise _no_head(error.seen) from None
        if (head.federation, head.site) != (self.identity.kit.federation, self.identity.site):
            raise _no_head(f"the head of {head.site} in {head.federation}")
        return head

    def _mended(self) -> Head | None:
        """The head, after a last line that a crash has torn was completed from it.

        Only the end of the log is looked at: the time of an entry must not grow with the log.
        """
        head = self._head()
        if head is None:
            return None
        path, last = self.folder / LOG, head.last.encode()
        start = head.size - len(last)
        size = path.stat().st_size if path.is_file() else 0
        if not start <= size <= head.size:
            raise damaged(head.count, f"the log has {size} bytes, the signed head says {head.size}")
        if size:
            with path.open("rb") as file:
                file.seek(start)
                tail = file.read()
            if tail != last[: size - start]:
                raise damaged(head.count, "it is another one than the signed head says")
        if size < head.size:
            self._append(start, last)
        return head

    def _append(self, size: int, line: bytes) -> None:
        path = self.folder / LOG
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
            with os.fdopen(handle, "wb") as file:
                file.truncate(size)
                file.seek(size)
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise not_written(path, error) from None


def own_keys(identity: SiteIdentity) -> set[str]:
    """Public keys (hex) that are or were this site's: what it has signed before it rotated them stays true."""
    member = identity.held().member(identity.site)
    return {identity.key.public, *(term.sign for term in (member.terms if member else ()))}


def _no_head(seen: str) -> OmniFedError:
    return OmniFedError(
        "OF831",
        "The head of an audit log must be there and signed by its own site.",
        seen=seen,
        remedy="Keep the folder as evidence, tell your security officer, compare it with a backup.",
    )


def _rolled_back(seen: str) -> OmniFedError:
    return OmniFedError(
        "OF832",
        "An audit log must hold every entry that the coordinator has seen.",
        seen=seen,
        remedy="An older copy was put back, or a new log begun: find out by whom. Was the anchor this site's, of this "
        "state folder?",
    )
