"""What can be wrong at this machine before a site joins: software, memory, device, local ports.

Each check, here and in its neighbours, returns a finding instead of raising. None imports torch or Flower: the doctor
answers within seconds.
"""

from __future__ import annotations

import json
import platform
import socket
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

import omnifed
from omnifed_client.config import ClientConfig, cores

FLOWER = "1.41."
"""The Flower that the transport is written for."""
MIN_MEMORY_BYTES = 2 * 2**30
"""Torch, a student and its batches; less ends in the kernel's out-of-memory killer, which leaves no message."""
TORCH_LIMIT_S = 25.0


@dataclass(frozen=True)
class Finding:
    """What a check saw.

    Attributes:
        name: of the check.
        state: ``ok``; ``warn``: the client starts, but look at it; ``fail``: joining cannot work.
        seen: what was found. Stays at the site.
        remedy: what to do about it.
        code: number with a page in ``docs/errors``; "" where all is well.
    """

    name: str
    state: Literal["ok", "warn", "fail"]
    seen: str
    remedy: str = ""
    code: str = ""


def unexamined(name: str) -> Finding:
    """For a check whose ground is missing: another finding says why."""
    return Finding(name, "warn", "not examined: the way ends before", "Resolve the findings above first.", "OF142")


def check_versions(config: ClientConfig) -> Finding:
    """Python, omnifed, Flower and torch as installed; torch's import itself is tried by :func:`check_device`."""
    found = {name: _version(name) for name in ("flwr", "torch")}
    seen = ", ".join(
        [f"python {platform.python_version()}", f"omnifed {omnifed.__version__}"]
        + [f"{name} {version or 'absent'}" for name, version in found.items()]
    )
    remedy = "Run: python -m pip install 'omnifed[site]' in the environment of omnifed-client."
    if not all(found.values()) or not found["flwr"].startswith(FLOWER):
        return Finding("versions", "fail", f"{seen}; wanted flwr {FLOWER}*", remedy, "OF134")
    return Finding("versions", "ok", seen)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


_LOOK = """
import json, torch
cuda = torch.cuda.is_available()
print(json.dumps({"torch": torch.__version__, "gpus": [torch.cuda.get_device_name(i) for i in
    range(torch.cuda.device_count())] if cuda else []}))
"""


def check_device(config: ClientConfig, *, code: str = _LOOK, driver: Path = Path("/dev/nvidiactl")) -> Finding:
    """Cores, and the GPUs that torch sees. Torch is imported in another process: it costs seconds and 200 MB.

    Args:
        config: of the client.
        code: prints what torch sees as JSON.
        driver: there if the machine has an NVIDIA driver.
    """
    machine = f"{cores()} CPU cores, {config.worker_threads} for training"
    broken = "Reinstall: python -m pip install --force-reinstall torch, then try: python -c 'import torch'"
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            timeout=TORCH_LIMIT_S,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        seen = f"{machine}; torch did not start within {TORCH_LIMIT_S:g} s"
        return Finding(
            "device", "warn", seen, "The machine is overloaded, or its GPU hangs: look at nvidia-smi.", "OF134"
        )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return Finding("device", "fail", f"{machine}; torch cannot be imported: {last:.200}", broken, "OF134")
    gpus = json.loads(done.stdout.strip().splitlines()[-1])["gpus"]
    if not gpus and driver.exists():
        seen = f"{machine}; an NVIDIA driver is there, but torch sees no GPU"
        remedy = (
            "Check nvidia-smi, the container's GPU option, and that torch is a CUDA build; without it the CPU works."
        )
        return Finding("device", "warn", seen, remedy, "OF139")
    return Finding("device", "ok", f"{machine}; {', '.join(gpus) or 'no GPU'}")


def check_memory(
    config: ClientConfig, *, meminfo: Path = Path("/proc/meminfo"), cgroup: Path = Path("/sys/fs/cgroup/memory.max")
) -> Finding:
    """Available memory, and the limit of the container where there is one."""
    try:
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
        available = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError, IndexError):
        return Finding("memory", "warn", f"{meminfo} says nothing", "Check by hand: 2 GiB must be available.", "OF139")
    limit = _limit(cgroup)
    seen = f"{available / 2**30:.1f} GiB available" + (f", the container may use {limit / 2**30:.1f}" if limit else "")
    if min(available, limit or available) < MIN_MEMORY_BYTES:
        remedy = "Close other programs or raise the container's limit: 2 GiB must be available."
        return Finding("memory", "fail", seen, remedy, "OF139")
    return Finding("memory", "ok", seen)


def _limit(cgroup: Path) -> int:
    try:
        return int(cgroup.read_text())
    except (OSError, ValueError):  # no cgroup v2, or "max"
        return 0


def check_ports(config: ClientConfig) -> list[Finding]:
    """Whether the local ports of the node and of the metrics page are free."""
    wanted = {"node port": config.node_port, "metrics port": config.metrics_port}
    idle = {"node port": "a free one is chosen at the start", "metrics port": "off"}
    return [
        _port(name, port) if port else Finding(name, "ok", idle[name])
        for name, port in wanted.items()
        if port or name == "node port"
    ]


def _port(name: str, port: int) -> Finding:
    with socket.socket() as probe:
        # As servers do: a connection of an earlier run that still lingers in TIME_WAIT does not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            key = name.replace(" ", "_")
            remedy = f"Stop the program that listens there (perhaps this site's client), or set {key} to another or 0."
            return Finding(name, "fail", f"{port}: {error.strerror}", remedy, "OF141")
    return Finding(name, "ok", f"{port} is free")
