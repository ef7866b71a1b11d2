"""Messages between the process that reads files and the one that asks: a JSON head and raw arrays, never pickle."""

from __future__ import annotations

import json
import os
import socket
import struct
import time
from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np

HEAD_BYTES = 16 * 2**20
"""Largest JSON head."""
KINDS = frozenset(f"{order}{kind}" for order, kinds in (("|", ("b1", "u1", "i1")), ("<", ("u2", "i2", "u4", "i4", "u8",
    "i8", "f2", "f4", "f8"))) for kind in kinds)  # fmt: skip
"""Types of array that are believed: plain numbers."""
_LENGTH = struct.Struct(">I")
_MAX_FDS = 1
_MAX_PARTS = 64
"""Buffers of one call to the system."""


class Broken(Exception):  # noqa: N818 (never seen by a user)
    """What came is no message: whoever sent it cannot be believed any more."""


def send(
    link: socket.socket,
    head: dict[str, Any],
    arrays: Sequence[np.ndarray] = (),
    fd: int | None = None,
    deadline: float | None = None,
) -> None:
    """Sends a message.

    Args:
        link: stream socket.
        head: anything JSON takes; the key ``arrays`` is the message's own.
        arrays: plain numbers, of :data:`KINDS` once they are in native order.
        fd: file descriptor that the receiver gets a copy of.
        deadline: of ``time.monotonic``; None waits for ever.

    Raises:
        TimeoutError: the deadline has passed.
    """
    whole = [np.ascontiguousarray(array, array.dtype.newbyteorder("=")) for array in arrays]
    text = json.dumps({**head, "arrays": [[array.dtype.str, array.shape] for array in whole]}).encode()
    if len(text) > HEAD_BYTES:
        raise ValueError("the head of a message is too long")
    left = deque([memoryview(_LENGTH.pack(len(text)) + text), *(a.data.cast("B") for a in whole if a.size)])
    with_fd = [] if fd is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", fd))]
    while left:  # as much as possible at once: the other end wakes seldom
        _wait(link, deadline)
        _advance(left, link.sendmsg(list(islice(left, _MAX_PARTS)), with_fd))
        with_fd = []


def receive(
    link: socket.socket, *, room: int, deadline: float | None = None, takes_fd: bool = False
) -> tuple[dict[str, Any], list[np.ndarray], int | None]:
    """Receives a message; believes nothing of it before it is checked.

    Args:
        link: stream socket.
        room: largest number of bytes of all arrays together.
        deadline: of ``time.monotonic``; None waits for ever.
        takes_fd: a file descriptor may come with it.

    Returns:
        Head, arrays and file descriptor (None without one).

    Raises:
        Broken: no message, or one larger than permitted.
        EOFError: the other end is gone.
        TimeoutError: the deadline has passed.
    """
    prefix, fds = bytearray(_LENGTH.size), list[int]()
    if takes_fd:
        _wait(link, deadline)
        first, fds, _, _ = socket.recv_fds(link, _LENGTH.size, _MAX_FDS)
        if not first:
            raise EOFError
        prefix[: len(first)] = first
        _fill(link, [memoryview(prefix)[len(first) :]], deadline)
    else:
        _fill(link, [memoryview(prefix)], deadline)
    (length,) = _LENGTH.unpack(prefix)
    if length > HEAD_BYTES:
        raise Broken(f"a head of {length} bytes")
    text = bytearray(length)
    _fill(link, [memoryview(text)], deadline)
    try:
        head = json.loads(bytes(text))
        shapes = [_checked(*entry) for entry in head.pop("arrays")]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError) as error:
        raise Broken(f"a head that is none ({type(error).__name__})") from None
    if sum(_bytes(kind, shape) for kind, shape in shapes) > room:
        raise Broken("more than was asked for")
    arrays = [np.empty(shape, kind) for kind, shape in shapes]
    _fill(link, [array.data.cast("B") for array in arrays if array.size], deadline)
    return head, arrays, fds[0] if fds else None


def _checked(kind: str, shape: list[int]) -> tuple[str, tuple[int, ...]]:
    if kind not in KINDS or len(shape) > 4 or not all(type(side) is int and 0 <= side < 2**40 for side in shape):
        raise ValueError("no plain array")
    return kind, tuple(shape)


def _bytes(kind: str, shape: tuple[int, ...]) -> int:
    count = np.dtype(kind).itemsize
    for side in shape:
        count *= side
    return count


def _wait(link: socket.socket, deadline: float | None) -> None:
    left = None if deadline is None else deadline - time.monotonic()
    if left is not None and left <= 0:
        raise TimeoutError
    link.settimeout(left)


def _fill(link: socket.socket, buffers: Sequence[memoryview], deadline: float | None) -> None:
    left = deque(buffer for buffer in buffers if buffer)
    while left:
        _wait(link, deadline)
        try:
            count = link.recvmsg_into(list(islice(left, _MAX_PARTS)))[0]
        except ConnectionResetError:
            count = 0
        if not count:
            raise EOFError
        _advance(left, count)


def _advance(left: deque[memoryview], count: int) -> None:
    """Takes off what ``count`` bytes have emptied or filled."""
    while count:
        taken = min(count, len(left[0]))
        count -= taken
        if taken < len(left[0]):
            left[0] = left[0][taken:]
        else:
            left.popleft()


def close_fd(fd: int | None) -> None:
    """Closes a file descriptor that came with a message, if any."""
    if fd is not None:
        os.close(fd)
