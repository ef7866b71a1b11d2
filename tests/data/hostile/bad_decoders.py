"""What a decoder does once a hostile file has taken it over, as operations of the process that reads."""

from __future__ import annotations

import ctypes
import os
import socket
import time
from pathlib import Path
from typing import Any

import numpy as np

from omnifed.data.sandbox.operations import Answer


def crash() -> Answer:
    ctypes.string_at(0)
    raise AssertionError


def spin() -> Answer:
    while True:
        pass


def sleep() -> Answer:
    time.sleep(3600)
    raise AssertionError


def panic() -> Answer:
    class Panic(BaseException):
        pass

    raise Panic("patient DOE^JANE")


def quote() -> Answer:
    raise ValueError("could not convert DOE^JANE")


def fill() -> Answer:
    return {}, [np.ones(2**30, np.uint8)]


def lie(head: dict[str, Any], bytes_: int) -> Answer:
    return head, [np.zeros(bytes_, np.uint8)]


def garbage(link: int) -> Answer:
    os.write(link, b"\xff" * 64)
    os._exit(0)


def refuse(code: str, seen: str) -> Answer:
    from omnifed.errors import OmniFedError

    raise OmniFedError(code, "DOE^JANE", seen=seen, remedy="call +44 20 7946 0000")


def escape(folder: str) -> Answer:
    """Tries what it must not be able to do; tells what it was able to."""
    done = []

    def attempt(name: str, what: Any) -> None:
        try:
            what()
        except OSError:
            return
        done.append(name)

    victim = Path(folder) / "victim"
    attempt("write", lambda: victim.write_text("x"))
    attempt("make", lambda: (Path(folder) / "new").touch())
    attempt("delete", victim.unlink)
    attempt("rename", lambda: victim.rename(Path(folder) / "other"))
    attempt("connect", lambda: socket.create_connection(("127.0.0.1", int((Path(folder) / "port").read_text())), 2))
    attempt("fork", lambda: os.fork() or os._exit(0))
    environment = sorted(set(os.environ) - {"PATH", "LC_ALL", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"})
    return {"done": done, "environment": environment}, []
