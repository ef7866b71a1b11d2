"""Do hostile files stay where they are decoded? Damaged files of every kind, and bombs.

    python benchmarks/hostile_dicom.py --files 10000
    python benchmarks/hostile_dicom.py --files 200      a look at whether it runs

`--files` DICOM files are made by damage from valid ones of 15 kinds and transfer syntaxes, and a fifth as many NIfTI
files and pictures; each is a pure function of (seed, number). Counted: how each ended, exceptions that are no
OmniFedError (escapes), errors that quote the patient's name planted in all of them (leaks), whole files of the same
kind that are then read as something else by the process that read the damaged one (changed), seconds by the clock, of
processor time (with what a new process loads, where one was needed) and memory of the reading process. Then each bomb
must be refused with its number. What the fence costs an honest site is in sandbox_cost.py.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from omnifed.data.readers.base import Picture
from omnifed.data.readers.registry import mask_values, read_image, read_mask
from omnifed.data.sandbox.process import SANDBOX
from omnifed.errors import OmniFedError

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "data" / "hostile"))
from bombs import BOMBS, write
from mutations import mutated
from valid_files import PLANTED, Valid, dicom_files, other_files

GOALS = {"escapes": 0, "leaks": 0, "changed": 0, "seconds": 2.0, "mib": 512, "bombs": 12, "bomb_seconds": 1.0}
"""What must hold."""

WARM = ("explicit.dcm", "PNG.png", "NIfTI.nii")
"""Files that load the libraries of all readers."""


def memory_mib(pid: int | None) -> float:
    """Most memory that a process has had, 0 if it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)


def cpu_s(pid: int | None) -> float:
    """Processor time of a process, 0 if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def ask(kind: Valid, path: Path, ct: Picture, number: int) -> tuple[str, str]:
    """How reading a file ends, and the text of the error."""
    try:
        if kind.mask:
            mask_values(path)
            read_mask(path, ct)
        else:
            read_image(path, voi=number % 2 == 1)
    except OmniFedError as error:
        return error.code, str(error)
    except Exception as error:
        return f"escape: {type(error).__name__}", ""
    return "read", ""


def pixels(kind: Valid, path: Path, ct: Picture) -> str:
    """What a file is read as: a hash of its pixels, or a number."""
    try:
        found = read_mask(path, ct) if kind.mask else [piece.pixels for piece in read_image(path).slices]
    except OmniFedError as error:
        return error.code
    return hashlib.sha256(
        b"".join(f"{array.dtype}{array.shape}".encode() + array.tobytes() for array in found)
    ).hexdigest()


def mutations(kinds: list[Valid], count: int, seed: int, folder: Path, tell: Callable[[str], None]) -> dict[str, Any]:
    """Reads ``count`` damaged files."""
    (folder / "ct.dcm").write_bytes(next(dicom_files()).data)
    ct = read_image(folder / "ct.dcm")
    outcomes: Counter[str] = Counter()
    slowest: list[tuple[float, str]] = []
    leaks, changed, replaced, most, cpu = 0, 0, 0, 0.0, 0.0
    alone = {kind.name: pixels(kind, folder / f"{kind.name}{kind.suffix}", ct) for kind in kinds}
    for number in range(count):
        kind = kinds[number % len(kinds)]
        path = folder / f"file{kind.suffix}"
        path.write_bytes(mutated(kind.data, kind.suffix, (seed, number)))
        pid, before, begin = SANDBOX.pid, cpu_s(SANDBOX.pid), time.perf_counter()
        code, text = ask(kind, path, ct, number)
        slowest = sorted([*slowest, (round(time.perf_counter() - begin, 3), f"{kind.name} {number} {code}")])[-5:]
        cpu = max(cpu, cpu_s(SANDBOX.pid) - (before if pid == SANDBOX.pid else 0.0))
        replaced += pid != SANDBOX.pid
        outcomes[code] += 1
        leaks += PLANTED in text
        most = max(most, memory_mib(SANDBOX.pid))
        changed += pixels(kind, folder / f"{kind.name}{kind.suffix}", ct) != alone[kind.name]
        if (number + 1) % 1000 == 0:
            tell(f"{number + 1}: {dict(outcomes.most_common(4))}, slowest {slowest[-1][0]} s, {most:.0f} MiB")
    escapes = sum(n for code, n in outcomes.items() if code.startswith("escape"))
    return {
        "files": count, "kinds": len(kinds), "outcomes": dict(outcomes.most_common()), "escapes": escapes,
        "leaks": leaks, "changed": changed, "replaced": replaced,
        "cpu_s": round(cpu, 2), "slowest": slowest[::-1], "mib": round(most, 1),
    }  # fmt: skip


def bombs(folder: Path) -> dict[str, Any]:
    """Reads each bomb; a fresh process that has decoded once is there before the clock starts."""
    refused, wrong, slowest, cpu, most = 0, [], (0.0, ""), 0.0, 0.0
    for bomb in BOMBS:
        path = write(bomb, folder)
        for warm in WARM:
            read_image(folder / warm)
        pid, before, begin = SANDBOX.pid, cpu_s(SANDBOX.pid), time.perf_counter()
        try:
            (mask_values if bomb.mask else read_image)(path)
            code = "read"
        except OmniFedError as error:
            code = error.code
        slowest = max(slowest, (round(time.perf_counter() - begin, 3), bomb.name))
        if pid == SANDBOX.pid:
            cpu = max(cpu, cpu_s(pid) - before)
        most = max(most, memory_mib(SANDBOX.pid))
        refused += code == bomb.code
        wrong += [] if code == bomb.code else [f"{bomb.name}: {code}"]
        path.unlink()
    return {
        "bombs": len(BOMBS),
        "refused": refused,
        "wrong": wrong,
        "cpu_s": round(cpu, 2),
        "slowest": slowest,
        "mib": round(most, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=10_000, help="damaged DICOM files")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()

    def tell(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    report: dict[str, Any] = {"machine": platform.processor() or platform.machine(), "numpy": np.__version__}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for kind in [*dicom_files(), *other_files()]:
            (folder / f"{kind.name}{kind.suffix}").write_bytes(kind.data)
        if options.files:
            report["dicom"] = mutations(list(dicom_files()), options.files, options.seed, folder, tell)
            report["others"] = mutations(list(other_files()), options.files // 5, options.seed + 1, folder, tell)
        report["bombs"] = bombs(folder)
    SANDBOX.close()
    print(json.dumps(report, indent=1))
    parts = [report[part] for part in ("dicom", "others") if part in report]
    met = {
        **{name: all(part[name] == GOALS[name] for part in parts) for name in ("escapes", "leaks", "changed")},
        "bombs": report["bombs"]["refused"] == report["bombs"]["bombs"] >= GOALS["bombs"],
    }
    tell(", ".join(f"{name}: {'met' if ok else 'NOT met'}" for name, ok in met.items()))
    raise SystemExit(0 if all(met.values()) else 1)


if __name__ == "__main__":
    main()
