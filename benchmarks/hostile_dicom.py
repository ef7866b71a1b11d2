"""Do hostile files stay where they are decoded? Damaged files of every kind, bombs, and what the fence costs a site.

    python benchmarks/hostile_dicom.py --files 10000
    python benchmarks/hostile_dicom.py --files 200 --site DIR      a look at whether it runs, and the cost at a site

`--files` DICOM files are made by damage from valid ones of 15 kinds and transfer syntaxes, and a fifth as many NIfTI
files and pictures; each is a pure function of (seed, number). Counted: how each ended, exceptions that are no
OmniFedError (escapes), errors that quote the patient's name planted in all of them (leaks), seconds by the clock, of
processor time (with what a new process loads, where one was needed) and memory of the reading process. Then each bomb
must be refused with its number. With --site, a site is prepared with decoding in this process and in the other one, in
turns.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from omnifed.data.readers.registry import mask_values, read_image, read_mask
from omnifed.data.sandbox import operations
from omnifed.data.sandbox.process import SANDBOX
from omnifed.errors import OmniFedError

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "data" / "hostile"))
from bombs import BOMBS, write
from mutations import mutated
from valid_files import PLANTED, Valid, dicom_files, other_files

GOALS = {"escapes": 0, "leaks": 0, "seconds": 2.0, "mib": 512, "bombs": 12, "bomb_seconds": 1.0, "ratio": 1.3}
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


def ask(kind: Valid, path: Path, ct: Any, number: int) -> tuple[str, str]:
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


def mutations(kinds: list[Valid], count: int, seed: int, folder: Path, tell: Callable[[str], None]) -> dict[str, Any]:
    """Reads ``count`` damaged files."""
    (folder / "ct.dcm").write_bytes(next(dicom_files()).data)
    ct = read_image(folder / "ct.dcm")
    outcomes: Counter[str] = Counter()
    slowest: list[tuple[float, str]] = []
    leaks, replaced, most, cpu = 0, 0, 0.0, 0.0
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
        if (number + 1) % 1000 == 0:
            tell(f"{number + 1}: {dict(outcomes.most_common(4))}, slowest {slowest[-1][0]} s, {most:.0f} MiB")
    escapes = sum(n for code, n in outcomes.items() if code.startswith("escape"))
    return {
        "files": count, "kinds": len(kinds), "outcomes": dict(outcomes.most_common()), "escapes": escapes,
        "leaks": leaks, "replaced": replaced, "cpu_s": round(cpu, 2), "slowest": slowest[::-1], "mib": round(most, 1),
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


@contextmanager
def in_this_process() -> Iterator[None]:
    """Answers questions here: what the project did before it had a process for that."""
    import importlib

    def ask(name: str, values: Any, limits: Any, answer: Any, **options: Any) -> Any:
        module, _, function = operations.OPERATIONS[name].partition(":")
        arrays = {"arrays": options["arrays"]} if "arrays" in options else {}
        head, results = getattr(importlib.import_module(module), function)(**values, **arrays)
        return answer.model_validate(head), results

    SANDBOX.ask = ask  # type: ignore[method-assign]
    try:
        yield
    finally:
        del SANDBOX.ask


def prepare_once(folder: Path, times: int, mode: str) -> None:
    """Prepares a site whose index has each line ``times`` times."""
    from omnifed.data.prepare import prepare
    from omnifed.data.site_folder import Site, load_site

    with tempfile.TemporaryDirectory() as out, in_this_process() if mode == "here" else nullcontext():
        site = load_site(folder)
        prepare(Site(site.config, site.root, site.rows * times), Path(out))


def cost(folder: Path, times: int, repeats: int) -> dict[str, Any]:
    """Prepares a site both ways, in turns, each in a whole process with its start and its libraries."""
    runs: dict[str, list[tuple[float, float]]] = {"here": [], "fenced": []}
    for turn in range(2 * repeats + 1):
        mode = "here" if turn % 2 == 0 else "fenced"
        begin, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, __file__, "--once", mode, "--site", folder, "--times", str(times)], check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        if turn:  # the first one fills the system's cache of files
            runs[mode].append((time.perf_counter() - begin, cpu))
    report: dict[str, Any] = {"site": folder.name, "times": times}
    for which, kind in enumerate(("wall", "cpu")):
        here, fenced = (statistics.median(run[which] for run in runs[mode]) for mode in ("here", "fenced"))
        report |= {f"{kind}_here_s": round(here, 2), f"{kind}_fenced_s": round(fenced, 2)}
        report |= {f"{kind}_ratio": round(fenced / here, 3)}
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=10_000, help="damaged DICOM files")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--site", type=Path, action="append", default=[], help="a site folder; may be repeated")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--times", type=int, default=5, help="how often each line of the site's index is read")
    parser.add_argument("--once", choices=["here", "fenced"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.once:
        prepare_once(options.site[0], options.times, options.once)
        return

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
    report["sites"] = [cost(site, options.times, options.repeats) for site in options.site]
    SANDBOX.close()
    print(json.dumps(report, indent=1))
    met = {
        "escapes": all(report[part]["escapes"] == 0 for part in ("dicom", "others") if part in report),
        "leaks": all(report[part]["leaks"] == 0 for part in ("dicom", "others") if part in report),
        "bombs": report["bombs"]["refused"] == report["bombs"]["bombs"] >= GOALS["bombs"],
    }
    tell(", ".join(f"{name}: {'met' if ok else 'NOT met'}" for name, ok in met.items()))
    raise SystemExit(0 if all(met.values()) else 1)


if __name__ == "__main__":
    main()
