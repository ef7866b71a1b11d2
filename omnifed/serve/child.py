"""One prediction in a process of its own: what a hostile file breaks or fills is that process."""

from __future__ import annotations

import asyncio
import json
import os
import re
import resource
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from omnifed.errors import OmniFedError

OMNIFED = (sys.executable, "-P", "-c", "from omnifed.cli.app import app; app(prog_name='omnifed')")
"""The command line of this installation."""
MEMORY = 6 * 2**30
"""Bytes of memory of its own that the process of a prediction may take; a CT of 512 x 512 takes 0.15 GB. Address space
would say little, as engines reserve some for each core."""
_ERROR = re.compile(r"^(OF\d{3}): (.*?)(?:\n  Seen: (.*?))?(?:\n  Remedy: (.*?))?(?:\n  More: [^\n]*)?\s*$", re.S)


async def predict(model: Path, source: Path, target: Path, limit_s: float, command: Sequence[str] = OMNIFED) -> Any:
    """Runs `omnifed predict` to its end, or ends it.

    Args:
        model: the exported model.
        source: file or folder.
        target: folder, which is made.
        limit_s: seconds after which the process and its children are killed; so are they when the task is cancelled.
        command: what runs the command line.

    Returns:
        What ``--json`` prints.

    Raises:
        OmniFedError: the command's own, OF656 over the limit, OF657 it ended without an answer.
    """
    process = await asyncio.create_subprocess_exec(
        *command, "predict", str(model), "--input", str(source), "--output", str(target), "--overlay", "slices",
        "--json", stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip
    _limit_memory(process.pid)
    try:
        out, err = await asyncio.wait_for(process.communicate(), limit_s)
    except TimeoutError:
        raise OmniFedError(
            "OF656",
            "A prediction must end within the time limit.",
            seen=f"killed after {limit_s:g} s",
            remedy="Send a smaller image or series, or start omnifed serve with a larger --limit-s.",
        ) from None
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    with suppress(ValueError):
        return json.loads(out)
    text = err.decode(errors="replace")
    raise parse_error(text) or unanswered(f"exit code {process.returncode}: {text.strip()[-300:]}")


def _limit_memory(pid: int) -> None:
    """Set from here once it runs: it is still loading libraries. Linux alone has this."""
    with suppress(AttributeError, OSError):
        resource.prlimit(pid, resource.RLIMIT_DATA, (MEMORY, MEMORY))


def unanswered(seen: str) -> OmniFedError:
    """OF657 with what is known."""
    return OmniFedError(
        "OF657",
        "The process of a prediction must end with an answer.",
        seen=seen,
        remedy="Try a smaller image: the process may have run out of memory. Try omnifed predict on the same file.",
    )


def parse_error(text: str) -> OmniFedError | None:
    """The error that the command line printed; None if the text is none."""
    found = _ERROR.match(text.strip())
    if found is None:
        return None
    code, rule, seen, remedy = found.groups(default="")
    return OmniFedError(code, rule, seen=seen, remedy=remedy)
