"""Programs that a supervisor keeps alive: started, watched, started again with growing pauses, and always ended."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from omnifed.errors import OmniFedError

LOOPBACK = "localhost,127.0.0.1,::1"
LOG_BYTES = 10_000_000
"""A log that is longer is put aside (``NAME.log.1``) when its program starts again."""


class Child:
    """One program.

    Args:
        name: also of its log.
        command: program and arguments.
        log: file that its output is appended to.
        env: added to this process's environment.
        longest_pause_s: of the pauses between two starts, which double from one second.
        ready: :meth:`keep_alive` starts the program only when this is true.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        *,
        env: Mapping[str, str] | None = None,
        longest_pause_s: float = 30.0,
        ready: Callable[[], bool] = lambda: True,
    ) -> None:
        self.name, self.command, self.log, self.env = name, list(command), log, dict(env or {})
        self.longest_pause_s, self.ready = longest_pause_s, ready
        self.starts = 0
        self.quick_ends = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._again = 0.0

    @property
    def pid(self) -> int | None:
        """Process id of the last start."""
        return self._process.pid if self._process else None

    def poll(self) -> int | None:
        """Exit status (negative: the signal) of the last start; None while it runs."""
        return self._process.poll() if self._process else None

    def start(self) -> None:
        """Starts the program."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        if self.log.is_file() and self.log.stat().st_size > LOG_BYTES:
            self.log.replace(self.log.with_name(self.log.name + ".1"))
        with self.log.open("ab") as log:
            # A session of its own: Ctrl-C reaches the supervisor alone, which ends the others in order.
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | self.env,
                start_new_session=True,
            )
        self.starts += 1
        self._started = time.monotonic()

    def keep_alive(self) -> int | None:
        """Starts the program, or starts it again if it has ended and its pause is over.

        Returns:
            The exit status that was noticed by this call; None if there is nothing new.
        """
        status = self.poll()
        if self._process is not None and status is None:
            return None
        if self._started:
            self.quick_ends = self.quick_ends + 1 if time.monotonic() - self._started < 20 else 0
            self._started = 0.0
            self._again = time.monotonic() + min(self.longest_pause_s, 2.0 ** min(self.quick_ends, 10) - 1)
            return status
        if time.monotonic() >= self._again and self.ready():
            self.start()
        return None

    def stop(self, grace_s: float = 10.0) -> None:
        """Ends the program: SIGTERM, and SIGKILL for its whole session after ``grace_s``."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(grace_s)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def tail(self, lines: int = 5) -> str:
        """The end of its log."""
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        except OSError:
            return ""


class Stop(Exception):  # noqa: N818 (it is no error)
    """SIGTERM or SIGINT has come; ``status`` is the conventional exit status, 128 + signal."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.status = 128 + number


@contextmanager
def stoppable() -> Iterator[None]:
    """Turns SIGTERM and SIGINT into :class:`Stop` at the main thread; a second one changes nothing."""

    def handler(number: int, frame: object) -> None:
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, signal.SIG_IGN)
        raise Stop(number)

    before = {name: signal.signal(name, handler) for name in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for name, old in before.items():
            signal.signal(name, old)


@contextmanager
def alone(path: Path, what: str) -> Iterator[bool]:
    """Holds a lock file, with this process's id in it, for as long as the block runs.

    Yields:
        Whether the last holder was killed: what it had started may still be on its way out.

    Raises:
        OmniFedError: OF552 if another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with path.open("a+") as file:
        if not _locked(file):
            raise OmniFedError(
                "OF552",
                "Only one process at a time may work in a folder.",
                seen=f"{what} runs already (process {holder(path) or 'unknown'}), lock {path}",
                remedy="Stop the other one first, or choose another folder.",
            )
        file.seek(0)
        killed = bool(file.read())
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        try:
            yield killed
        finally:
            file.truncate(0)


def _locked(file: IO[str]) -> bool:
    """Takes the lock; a second's patience, as somebody who only looks (:func:`holder`) holds it for a moment too."""
    for _ in range(20):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            time.sleep(0.05)
    return False


def holder(path: Path) -> int | None:
    """The process that holds the lock of :func:`alone`; None if nobody does."""
    try:
        with path.open("r") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(file.read() or 0) or None
    except OSError:
        pass
    return None


def free_port(host: str = "127.0.0.1") -> int:
    """A port on which nobody listens now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def listens(host: str, port: int) -> bool:
    """Whether somebody listens there."""
    try:
        with socket.create_connection((host, port), timeout=1):
            return True
    except OSError:
        return False


def unheard(address: str, *, insecure: bool, root_certificates: str = "", direct: bool = False) -> str:
    """Why a SuperLink does not answer ``GET /health``; "" if it does.

    Args:
        address: HOST:PORT.
        insecure: plain HTTP.
        root_certificates: PEM file; "" takes the system's.
        direct: past the proxy that the environment names for the rest of the world.
    """
    handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})] if direct else []
    try:
        if not insecure:
            context = ssl.create_default_context(cafile=root_certificates or None)
            handlers.append(urllib.request.HTTPSHandler(context=context))
        url = f"{'http' if insecure else 'https'}://{address}/health"
        with urllib.request.build_opener(*handlers).open(url, timeout=5) as answer:
            return "" if answer.status == 200 else f"status {answer.status}"
    except (OSError, ValueError) as error:
        return str(error)


def flower(program: str, *arguments: str) -> list[str]:
    """The command of one of Flower's programs (:mod:`omnifed.transport.flower_programs`)."""
    return [sys.executable, "-m", "omnifed.transport.flower_programs", program, *arguments]


def flower_env(home: Path) -> dict[str, str]:
    """Environment of Flower's programs: private state, no calls home, helpers found beside this Python.

    They talk HTTP to each other on this machine, and their library obeys HTTP_PROXY even for that: NO_PROXY says no.
    """
    scripts = str(Path(sys.executable).parent)
    known = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    direct = ",".join([*filter(None, [known]), LOOPBACK])
    return {
        "no_proxy": direct,
        "NO_PROXY": direct,
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "PATH": f"{scripts}{os.pathsep}{os.environ.get('PATH', '')}",
    }
