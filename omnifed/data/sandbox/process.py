"""One process that reads files for this one: started when first asked, replaced when it breaks, never believed."""

from __future__ import annotations

import atexit
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pydantic import BaseModel, ValidationError

from omnifed.config import Frozen
from omnifed.data.sandbox import wire
from omnifed.data.sandbox.failures import READER_ERRORS, broken, refused, too_long, too_much, unbelievable
from omnifed.data.sandbox.limits import Limits
from omnifed.errors import OmniFedError

log = logging.getLogger(__name__)

_QUESTIONS = 4000
"""Questions after which a process is replaced: what libraries leak, and what a file may have left behind, ends."""
_AGE_S = 1200.0
_START_S = 60.0
_AHEAD = 2**20
"""Bytes of an answer that may be on their way, where the system permits so many: this process wakes less often."""
_SEEN = 400
M = TypeVar("M", bound=BaseModel)
_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv.pop()); from omnifed.data.sandbox.child import main; main()"
)
_told: set[str] = set()


class Nothing(Frozen):
    """The head of an answer that is arrays alone."""


class Sandbox:
    """Asks, and survives what it asks about. Threads wait for one another; a forked process starts one of its own."""

    def __init__(self) -> None:
        self._forget()
        os.register_at_fork(after_in_child=self._forget)
        atexit.register(self.close)

    def _forget(self) -> None:
        self._lock = threading.RLock()
        self._users = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._link: socket.socket | None = None
        self._asked, self._started, self._ready = 0, 0.0, False

    @property
    def pid(self) -> int | None:
        """Process id, None while there is none."""
        return self._process.pid if self._process else None

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Ends the process when the last such block ends: a run's reader does not outlive the run."""
        with self._lock:
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if self._users == 0:
                    self.close()

    def ask(
        self,
        name: str,
        values: Mapping[str, Any],
        limits: Limits,
        answer: type[M],
        *,
        about: str,
        room: int = 0,
        arrays: Sequence[np.ndarray] = (),
        fd: int | None = None,
        errors: Mapping[str, Callable[[str], OmniFedError]] | None = None,
    ) -> tuple[M, list[np.ndarray]]:
        """Asks one question.

        Args:
            name: of :data:`omnifed.data.sandbox.operations.OPERATIONS`.
            values: arguments, as JSON takes them.
            limits: for this question.
            answer: what the head of the answer must look like.
            about: the file, for errors.
            room: most bytes that the arrays of the answer may have.
            arrays: arguments.
            fd: file descriptor that the process may use.
            errors: numbers beyond the readers' own that may come back, and what makes them.

        Returns:
            The checked head, and arrays of plain numbers of any shape.

        Raises:
            OmniFedError: what the operation says of the file; OF880 it broke, OF881 it took too long, OF882 it took too
                much memory, OF883 the answer cannot be believed, or there is no process.
        """
        with self._lock:
            link = self._running()
            self._asked += 1
            # Relative paths are this process's own, wherever it stands now.
            about_us = {"folder": os.getcwd(), "limits": [limits.cpu_s, limits.memory]}
            question = {"ask": name, "values": dict(values), **about_us}
            deadline = time.monotonic() + limits.wall_s
            try:
                wire.send(link, question, arrays, fd, deadline)
                head, results, _ = wire.receive(link, room=room, deadline=deadline)
                if "error" in head:
                    raise self._failure(str(head["error"]), str(head.get("seen", "")), about, errors or {})
                return answer.model_validate(head["answer"]), results
            except TimeoutError:
                self._end()
                raise too_long(f"{about}: no answer within {limits.wall_s:.0f} s") from None
            except (EOFError, ConnectionError):
                raise self._ended(about, limits) from None
            except (wire.Broken, KeyError, ValidationError) as error:
                self._end()
                raise unbelievable(f"{about}: {type(error).__name__}") from None
            except OmniFedError:
                raise
            except BaseException:  # Ctrl-C between question and answer: the next question must not get this answer
                self._end()
                raise

    def start(self) -> None:
        """Starts the process without waiting for it: it loads while something else is done."""
        with self._lock:
            if self._link is None:
                self._spawn()

    def close(self) -> None:
        """Ends the process, if there is one; the next question starts another."""
        with self._lock:
            self._end()

    def _running(self) -> socket.socket:
        old = self._asked >= _QUESTIONS or time.monotonic() - self._started > _AGE_S
        if self._link is not None and old:
            self._end()
        self.start()
        assert self._link is not None
        if not self._ready:
            self._greet(self._link)
        return self._link

    def _spawn(self) -> None:
        here, there = socket.socketpair()
        there.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _AHEAD)
        environment = {
            "PATH": "/usr/bin:/bin",
            "LC_ALL": "C.UTF-8",
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            # What glibc comes to by itself after one large block: memory that a decoder gives back serves the next
            # file, where the system would have to give it page by page each time (up to half of the time).
            "MALLOC_MMAP_THRESHOLD_": str(2**25),
            "MALLOC_TRIM_THRESHOLD_": str(2**26),
        }
        with suppress(KeyError):  # some Pythons find their own libraries by it
            environment["LD_LIBRARY_PATH"] = os.environ["LD_LIBRARY_PATH"]
        paths = json.dumps([str(Path(entry).absolute()) for entry in sys.path if entry])
        try:
            with there:
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-B", "-c", _START, str(there.fileno()), paths],
                    stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                    pass_fds=(there.fileno(),), env=environment, cwd="/",
                )  # fmt: skip
        except OSError as error:
            here.close()
            raise unbelievable(f"no process ({type(error).__name__})") from None
        self._link, self._asked, self._started, self._ready = here, 0, time.monotonic(), False

    def _greet(self, link: socket.socket) -> None:
        try:
            head, _, _ = wire.receive(link, room=0, deadline=time.monotonic() + _START_S)
        except (OSError, EOFError, wire.Broken) as error:
            self._end()
            raise unbelievable(f"no process ({type(error).__name__})") from None
        self._ready = True
        missing = ", ".join(map(str, head.get("ready", ())))
        if missing and missing not in _told:
            _told.add(missing)
            log.warning(
                "this system cannot keep the process that reads files from: %s (docs/hostile-files.md)", missing
            )

    def _end(self) -> int | None:
        """Kills what is left; returns how it ended."""
        process, link, self._process, self._link = self._process, self._link, None, None
        if link is not None:
            link.close()
        if process is None:
            return None
        if process.poll() is None:
            process.kill()
        return process.wait()

    def _ended(self, about: str, limits: Limits) -> OmniFedError:
        process, status = self._process, None
        if process is not None:
            with suppress(subprocess.TimeoutExpired):
                status = process.wait(5)
        self._end()
        if status in (-signal.SIGPROF, -signal.SIGXCPU):
            return too_long(f"{about}: more than {limits.cpu_s:.0f} s of processor time")
        return broken(f"{about}: " + ("it closed its line" if status is None else f"exit status {status}"))

    def _failure(
        self, code: str, seen: str, about: str, errors: Mapping[str, Callable[[str], OmniFedError]]
    ) -> OmniFedError:
        seen = "".join(c if c.isprintable() else "?" for c in seen[:_SEEN])
        seen = seen if seen.startswith(about) else f"{about}: {seen}".rstrip(": ")
        if code == "OF880":
            self._end()
            return broken(seen)
        if code == "OF882":
            self._end()  # what a failed allocation left half done
            return too_much(seen)
        if code in errors:
            return errors[code](seen)
        if code in READER_ERRORS:
            return refused(code, seen)
        self._end()
        return unbelievable(f"{about}: an unknown number")


SANDBOX = Sandbox()
"""The one of this process."""
