"""What a machine says of itself: processor, cores, memory. Never the name of the host."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import NamedTuple


class Machine(NamedTuple):
    """A machine in a line.

    Attributes:
        text: processor or board, cores and memory.
        cores: that this process may use.
        memory_mib: physical memory in MiB.
    """

    text: str
    cores: int
    memory_mib: float


def describe_machine(root: Path = Path("/")) -> Machine:
    """This machine.

    Args:
        root: where ``proc`` lies.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**20
    return Machine(f"{_processor(root)[:120]}, {cores} cores, {memory / 1024:.1f} GiB", cores, memory)


def _processor(root: Path) -> str:
    # A board names itself in its device tree; its /proc/cpuinfo says no more than "ARMv8".
    for name, marker in (("proc/device-tree/model", ""), ("proc/cpuinfo", "model name")):
        try:
            lines = (root / name).read_text(errors="replace").replace("\0", "").splitlines()
        except OSError:
            continue
        found = [line.partition(":")[2] if marker else line for line in lines if line.startswith(marker)]
        if found and found[0].strip():
            return found[0].strip()
    return platform.processor() or platform.machine()
