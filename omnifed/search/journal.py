"""An append-only file of events, one JSON object a line, that survives ``kill -9`` and notices damage. Needs no torch.

Each line carries its number and a CRC-32 of its bytes that starts from the study's description: a byte that changed, a
line that is missing, and a line of another study are all noticed. Lines do not hang on the lines before them, so a
damaged one can be emptied by hand: an empty line stands for any number of lines that are known to be lost.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Self
from zlib import crc32

from omnifed.errors import OmniFedError
from omnifed.files import not_written, sync_folder

FORMAT = 1
"""Version of the lines; a journal of a newer one is refused."""
Event = dict[str, Any]

log = logging.getLogger(__name__)


class Journal:
    """Holds a journal for as long as it is open; the first line is the study's description, the others are events.

    Opening appends the event ``opened`` with this process's ``pid``.

    Args:
        path: of the file; it and its folder are made where they are missing.
        study: what the journal is of, as JSON can say it (settings, seed); a journal belongs to one description.
        now: the clock, seconds since 1970; each event is stamped with it.

    Raises:
        OmniFedError: OF730 if a line is damaged or missing, OF731 if the description is another, OF732 if the format is
            newer, OF733 if another process holds the journal, OF103 if it cannot be written.
    """

    def __init__(self, path: Path, study: dict[str, Any], now: Callable[[], float] = time.time) -> None:
        self.path, self._now = path, now
        self._study = json.loads(json.dumps(study, sort_keys=True, allow_nan=False))
        self._header = _line({"n": 0, "event": "study", "format": FORMAT, "study": self._study}, 0)
        self._seed = crc32(self._header)
        self._events: list[Event] = []
        self._next, self._size = 0, 0
        self._file = self._open()
        try:
            self._lock()
            self._load()
            self.append({"event": "opened", "pid": os.getpid()})
        except BaseException:
            self.close()
            raise

    def events(self) -> list[Event]:
        """All events, oldest first, each with ``n`` (line number, the first event's is 1) and ``time`` (seconds)."""
        return list(self._events)

    def append(self, event: Event) -> Event:
        """Writes one event to disk; when this returns it will be there after any crash.

        Args:
            event: its ``event`` names what happened.

        Returns:
            The event as :meth:`events` gives it.

        Raises:
            OmniFedError: OF103 if the disk is full; the file and :meth:`events` are as before.
            ValueError: for NaN or infinity, or if the journal is closed.
        """
        stamped = {"n": self._next, "time": self._now(), **event}
        self._write(_line(stamped, self._seed))
        self._events.append(stamped)
        self._next += 1
        return stamped

    def close(self) -> None:
        """Lets another process have the journal."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> IO[bytes]:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Unbuffered: after a failed write a buffer would write the same bytes again when it is closed.
            return open(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644), "r+b", buffering=0)
        except OSError as error:
            raise not_written(self.path, error) from None

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OmniFedError(
                "OF733",
                "Only one coordinator at a time may work on a journal.",
                seen=f"{self.path} is held by process {self._holder() or 'unknown'}",
                remedy="Stop the other coordinator first, or choose another folder.",
            ) from None

    def _holder(self) -> int | None:
        """The process that opened the journal last."""
        found = (_sound(line, self._seed) for line in reversed(self._file.read().split(b"\n")))
        return next((event["pid"] for event in found if event and event["event"] == "opened"), None)

    def _load(self) -> None:
        data = self._file.read()
        self._size = data.rfind(b"\n") + 1
        lines, rest = data[: self._size].split(b"\n")[:-1], data[self._size :]
        for event in self._checked(lines):
            self._events.append(event)
            self._next = event["n"] + 1
        if rest and not _torn(rest, self._header if not lines else b'{"n":'):
            raise self._damaged(len(lines) + 1, _ALTERED)
        if rest:
            log.warning("%s: the last line was cut off by a crash and is dropped (%d bytes)", self.path, len(rest))
        if not lines:
            self._write(self._header)
            sync_folder(self.path.parent)
        self._next = max(self._next, 1)

    def _checked(self, lines: list[bytes]) -> Iterator[Event]:
        """The events in ``lines``, or the error of the first line that is wrong."""
        expected, emptied = 0, False
        for number, line in enumerate(lines, 1):
            if not line:
                emptied = True
                continue
            event = self._described(line) if number == 1 else None
            event = event or _sound(line, self._seed)
            if event is None:
                if not lines[0] and not any(_sound(other, self._seed) for other in lines):
                    raise self._other("line 1 is empty, and no other line was written with these settings")
                raise self._damaged(number, _ALTERED)
            if event["n"] < expected:
                raise self._damaged(number, "it stands there twice, or in the wrong place")
            if event["n"] > expected and not emptied:
                raise self._damaged(number, f"{event['n'] - expected} line(s) before it are missing", missing=True)
            expected, emptied = event["n"] + 1, False
            if event["n"]:
                yield event

    def _described(self, line: bytes) -> Event | None:
        """The first line, if it is whole and describes this study."""
        found = _sound(line, 0)
        if found is None or found["event"] != "study":
            return None
        if found["format"] > FORMAT:
            raise newer(self.path, f"format {found['format']}, this version reads {FORMAT}")
        if found["study"] != self._study:
            there, here = _flat(found["study"]), _flat(self._study)
            names = [name for name in sorted({*there, *here}) if there.get(name) != here.get(name)]
            shown = (f"{name}: {there.get(name, 'not set')} there, {here.get(name, 'not set')} here" for name in names)
            raise self._other("; ".join(shown))
        return found

    def _write(self, line: bytes) -> None:
        """Adds ``line`` at the end of what is whole, and waits until the disk has it."""
        handle, done = self._file.fileno(), 0
        try:
            os.ftruncate(handle, self._size)  # what a crash or a failed write has left
            while done < len(line):
                done += os.pwrite(handle, line[done:], self._size + done)
            os.fsync(handle)
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(handle, self._size)
            raise not_written(self.path, error) from None
        self._size += done

    def _damaged(self, number: int, what: str, missing: bool = False) -> OmniFedError:
        by_hand = "put one empty line in their place" if missing else "empty that line and keep its line break"
        edit = "s/^/\\n/" if missing else "s/.*//"
        return OmniFedError(
            "OF730",
            "Each line of a journal must be as it was written, and none may be missing.",
            seen=f"{self.path}, line {number}: {what}",
            remedy=f"Put the file back from a copy; or {by_hand}: "
            f"LC_ALL=C sed -i '{number}{edit}' {shlex.quote(str(self.path))} - "
            "what stood there may be asked again, all other lines count.",
        )

    def _other(self, seen: str) -> OmniFedError:
        return OmniFedError(
            "OF731",
            "A journal belongs to one study: its settings stay as they were when it began.",
            seen=f"{self.path}: {seen}",
            remedy="Set the named settings back; or choose another folder, or move the journal away, and begin anew.",
        )


_ALTERED = "its bytes do not fit its check sum"
_CHECK = b',"check":"'


def newer(path: Path, seen: str) -> OmniFedError:
    """The error of a journal that this version cannot read."""
    return OmniFedError(
        "OF732",
        "A journal must be of a format that this version of OmniFed reads.",
        seen=f"{path}: {seen}",
        remedy="Go on with the version that wrote it, or a newer one; or move the journal away and begin anew.",
    )


def _line(record: Event, seed: int) -> bytes:
    """One line: ``record`` and the CRC-32 of all bytes before it."""
    body = json.dumps(record, allow_nan=False, separators=(",", ":")).encode()[:-1]
    return body + _CHECK + b'%08x"}\n' % crc32(body, seed)


def _sound(line: bytes, seed: int) -> Event | None:
    """What a line says, without its check sum; None if a byte of it is not as it was written."""
    body, _, check = line.rpartition(_CHECK)
    return json.loads(body + b"}") if body and check == b'%08x"}' % crc32(body, seed) else None


def _torn(rest: bytes, start: bytes) -> bool:
    """Whether bytes without a line break are the beginning of a line that begins with ``start``, and no more."""
    if not start.startswith(rest[: len(start)]):
        return False
    try:
        text = rest.decode(errors="replace")
        return json.JSONDecoder().raw_decode(text)[1] == len(text)
    except ValueError:
        return True


def _flat(value: Any, name: str = "") -> dict[str, str]:
    """Leaves of nested settings by dotted name."""
    if isinstance(value, dict | list) and value:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {k: v for key, one in items for k, v in _flat(one, f"{name}.{key}" if name else str(key)).items()}
    return {name: f"{json.dumps(value)}"}
