"""The process that reads: waits for questions, answers each under its limits. Started by ``process.Sandbox``.

What a hostile file breaks, fills or takes over is this process; nothing that it says is believed before it is checked.
"""

from __future__ import annotations

import importlib
import os
import signal
import socket
import sys
import warnings
from typing import Any

import numpy as np

from omnifed.data.sandbox import wire
from omnifed.data.sandbox.limits import Limits, Restraint
from omnifed.data.sandbox.operations import OPERATIONS, Answer
from omnifed.errors import OmniFedError

_ROOM = 2**31


def main() -> None:
    """Serves the socket whose number is the first argument until its other end is gone."""
    link = socket.socket(fileno=int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C: the asking process ends this one
    warnings.simplefilter("ignore")  # they quote headers
    for name in ("requests", "tqdm"):  # pydicom loads them, 0.1 s, to download its examples
        sys.modules[name] = None  # type: ignore[assignment]
    restraint = Restraint()
    wire.send(link, {"ready": restraint.missing})
    while True:
        try:
            question, arrays, fd = wire.receive(link, room=_ROOM, takes_fd=True)
        except EOFError:
            return
        head, results = _answer(restraint, question, arrays, fd)
        wire.close_fd(fd)
        try:
            wire.send(link, head, results)
        except OSError:
            return


def _answer(restraint: Restraint, question: dict[str, Any], arrays: list[np.ndarray], fd: int | None) -> Answer:
    module, _, name = OPERATIONS[question["ask"]].partition(":")
    operation = getattr(importlib.import_module(module), name)
    values = question["values"] | ({"arrays": arrays} if arrays else {}) | ({} if fd is None else {"fd": fd})
    try:
        os.chdir(question["folder"])
        restraint.hold(Limits(*question["limits"]))
        head, results = operation(**values)
        return {"answer": head}, results
    except OmniFedError as error:
        return {"error": error.code, "seen": error.seen}, []
    except MemoryError:
        return {"error": "OF882", "seen": ""}, []
    except Exception as error:
        # Decoders raise almost anything on damaged bytes. The text may quote a header: the type alone is told.
        return {"error": "OF212", "seen": type(error).__name__}, []
    except BaseException as error:  # a Rust panic is none of Exception
        return {"error": "OF880", "seen": type(error).__name__}, []
    finally:
        restraint.release()


if __name__ == "__main__":
    main()
    os._exit(0)
