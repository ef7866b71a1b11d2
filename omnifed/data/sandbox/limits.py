"""What a process that reads a file from outside may use. Linux has all of it; elsewhere what is missing is said."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import struct
from dataclasses import dataclass

SMALL = 4 * 2**20
"""Bytes of a file up to which the limits are those of a small file."""
_CPU_S, _MEMORY = 2.0, 512 * 2**20
_MOST_MEMORY = 4 * 2**30
_BYTES_S = 4 * 2**20
_PIXELS_S = 2 * 2**20
_PATIENCE = 10.0
_LIFE_S = 3600


@dataclass(frozen=True)
class Limits:
    """Of one question.

    Attributes:
        cpu_s: seconds of processor time.
        memory: bytes of address space of the whole process, its libraries included; where these take more than half
            of it, half of it beyond them.
    """

    cpu_s: float
    memory: int

    @property
    def wall_s(self) -> float:
        """Seconds after which the process is ended whatever it does: a busy machine must not cost a patient's file."""
        return _PATIENCE * self.cpu_s


def limits_for(size: int, *, pixels: int = 0, held: int = 0) -> Limits:
    """The limits of a question: 2 s and 512 MiB for files up to 4 MiB.

    ``cpu_s = 2 + (size - 4 MiB) / (4 MiB/s) + pixels / (2 Mpx/s)``: JPEG 2000, the slowest, gave 9 Mpx/s on one core of
    a server, RLE 75; ``memory = 512 MiB + 8 (size - 4 MiB) + held``, at most 4 GiB.

    Args:
        size: bytes of the files to read.
        pixels: to give back.
        held: bytes that the asking process provides or has accepted.
    """
    more = max(0, size - SMALL)
    return Limits(_CPU_S + more / _BYTES_S + pixels / _PIXELS_S, min(_MOST_MEMORY, _MEMORY + 8 * more + held))


class Restraint:
    """Limits that a process sets on itself, before it touches what comes from outside."""

    def __init__(self) -> None:
        self.missing = confine()
        self._statm = _open_statm()
        self._most = self._address_space() + _MOST_MEMORY
        _limit(resource.RLIMIT_AS, self._most, self._most)

    def hold(self, limits: Limits) -> None:
        """Begins a question; a processor time that is over ends the process at once, whatever it is doing."""
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_PROF, limits.cpu_s)
        most = max(limits.memory, self._address_space() + limits.memory // 2)
        _limit(resource.RLIMIT_AS, min(self._most, most), self._most)

    def release(self) -> None:
        """Ends a question."""
        signal.setitimer(signal.ITIMER_PROF, 0)
        _limit(resource.RLIMIT_AS, self._most, self._most)

    def _address_space(self) -> int:
        """Bytes of this process's address space; 0 where the system does not tell."""
        return 0 if self._statm is None else int(os.pread(self._statm, 32, 0).split()[0]) * resource.getpagesize()


def confine() -> tuple[str, ...]:
    """Gives up for ever, as far as the system permits, what reading does not need.

    No file grows, is made, changed or deleted, no process is started, no network is there, no core is dumped.

    Returns:
        What this system does not permit to give up.
    """
    missing = []
    for name, value in (("CORE", 0), ("FSIZE", 0), ("NOFILE", 64), ("NPROC", 0), ("CPU", _LIFE_S)):
        if not _limit(getattr(resource, f"RLIMIT_{name}"), value, value):
            missing.append(name)
    libc = ctypes.CDLL(None, use_errno=True)
    if not _no_network(libc):
        missing.append("network")
    if not _no_changes(libc):
        missing.append("files")
    return tuple(missing)


def _limit(which: int, soft: int, hard: int) -> bool:
    try:
        resource.setrlimit(which, (soft, hard))
    except (ValueError, OSError):  # macOS refuses some
        return False
    return True


def _open_statm() -> int | None:
    """Kept open: it is read before each question."""
    try:
        return os.open("/proc/self/statm", os.O_RDONLY)
    except OSError:
        return None


def _no_network(libc: ctypes.CDLL) -> bool:
    """Moves into a network namespace without any interface, then drops the rights that came with it."""
    new_user, new_net, no_new_privileges = 0x10000000, 0x40000000, 38
    root = os.geteuid() == 0
    try:
        # In a user namespace root would lose the right to read other people's files, which a container's root has.
        alone = libc.unshare(new_net if root else new_user | new_net) == 0
        libc.prctl(no_new_privileges, 1, 0, 0, 0)
        reading = 0b110 if root else 0  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        libc.capset((ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)(reading, reading))
    except AttributeError:  # not Linux
        return False
    return alone


def _no_changes(libc: ctypes.CDLL) -> bool:
    """Landlock: files may be read, nothing else. The rights are those of its first version (Linux 5.13)."""
    create, restrict, no_new_privileges = 444, 446, 38
    changing = sum(1 << bit for bit in (1, 4, 5, 6, 7, 8, 9, 10, 11, 12))  # write, remove, make
    try:
        libc.prctl(no_new_privileges, 1, 0, 0, 0)
        ruleset = libc.syscall(create, struct.pack("Q", changing), ctypes.c_size_t(8), 0)
        if ruleset < 0:
            return False
        done = libc.syscall(restrict, ruleset, 0) == 0
        os.close(ruleset)
    except AttributeError:
        return False
    return bool(done)
