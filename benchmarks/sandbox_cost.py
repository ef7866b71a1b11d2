"""What does it cost an honest site that its files are decoded by another process, under limits?

    python benchmarks/sandbox_cost.py                                   made sites: JPEG, PNG, DICOM with SEG, NIfTI
    python benchmarks/sandbox_cost.py --data DATA --sites isic,chaos_ct
    python benchmarks/sandbox_cost.py --repeats 1 --times 1             a look at whether it runs

Both sides in one run, in turns: decoding in the process that asks, as it was before there was another, and the fence.
`read` is reading images and masks alone, in a process that has done so before. `prepare` is what a site waits for:
reading, normalising, resizing and writing, in whole processes with their start and their libraries. Medians of the
turns, by the clock and in processor time of all processes together: on a busy machine only the second says something.
Target: preparing takes at most 1.3 times as long. --times reads a small site's index several times, so that a start
counts as little as at a site of ordinary size.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any

from omnifed.data.case import read_case
from omnifed.data.prepare import prepare
from omnifed.data.propose import propose_site, write_site_toml
from omnifed.data.readers.registry import reading_run
from omnifed.data.sandbox import operations
from omnifed.data.sandbox.process import SANDBOX
from omnifed.data.site_folder import Site, load_site

TARGET = 1.3
SIDES = ("here", "fenced")
Cost = tuple[float, float]
"""Seconds by the clock, seconds of processor time."""


@contextmanager
def in_this_process() -> Iterator[None]:
    """Answers questions here: what the project did before it had a process for that."""

    def ask(name: str, values: Any, limits: Any, answer: Any, **options: Any) -> Any:
        module, _, function = operations.OPERATIONS[name].partition(":")
        arrays = {"arrays": options["arrays"]} if "arrays" in options else {}
        head, results = getattr(import_module(module), function)(**values, **arrays)
        return answer.model_validate(head), results

    SANDBOX.ask = ask  # type: ignore[method-assign]
    try:
        yield
    finally:
        del SANDBOX.ask


def side_of(mode: str) -> Any:
    return in_this_process() if mode == "here" else nullcontext()


def cpu_s() -> float:
    """Processor time of this process and of those that it has waited for."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def cpu_of(pid: int | None) -> float:
    """Processor time of a process that runs, 0 without one."""
    if pid is None:
        return 0.0
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measured(work: Callable[[], object]) -> Cost:
    begin, before, pid, child = time.perf_counter(), cpu_s(), SANDBOX.pid, cpu_of(SANDBOX.pid)
    work()
    return time.perf_counter() - begin, cpu_s() - before + (cpu_of(pid) - child if SANDBOX.pid == pid else 0.0)


def in_turns(repeats: int, run: Callable[[str], Cost]) -> dict[str, list[Cost]]:
    """Both sides ``repeats`` times after one turn each that fills caches."""
    runs: dict[str, list[Cost]] = {mode: [] for mode in SIDES}
    for turn in range(repeats + 1):
        for mode in SIDES:
            cost = run(mode)
            runs[mode] += [cost] if turn else []
    return runs


def reading(site: Site, repeats: int) -> dict[str, list[Cost]]:
    def once(mode: str) -> Cost:
        with side_of(mode):
            return measured(lambda: [read_case(site, row) for row in site.rows])

    with reading_run():
        return in_turns(repeats, once)


def preparing(folder: Path, times: int, repeats: int) -> dict[str, list[Cost]]:
    command = [sys.executable, __file__, "--data", str(folder), "--times", str(times), "--once"]
    return in_turns(repeats, lambda mode: measured(lambda: subprocess.run([*command, mode], check=True)))


def once(folder: Path, times: int, mode: str) -> None:
    """One whole process of :func:`preparing`."""
    with tempfile.TemporaryDirectory() as out, side_of(mode):
        site = load_site(folder)
        prepare(Site(site.config, site.root, site.rows * times), Path(out))


def summary(runs: dict[str, list[Cost]], rows: int) -> dict[str, float]:
    """Medians in ms a row of the index, and the ratios of the medians."""
    report: dict[str, float] = {}
    for which, kind in enumerate(("wall", "cpu")):
        here, fenced = (statistics.median(run[which] for run in runs[mode]) for mode in SIDES)
        report |= {f"{kind}_here_ms": round(1000 * here / rows, 2), f"{kind}_fenced_ms": round(1000 * fenced / rows, 2)}
        report[f"{kind}_ratio"] = round(fenced / here, 3)
    return report


def folders(options: argparse.Namespace, scratch: Path) -> list[Path]:
    """Sites as named, those without ``site.toml`` copied and given one; without --data made ones."""
    if options.data is None:
        from omnifed_sim.phantoms import write_preset

        made = write_preset("modalities", scratch, image_size=256, scale=1.0)
        return [site for site in made if not options.sites or site.name in options.sites.split(",")]
    found = []
    for name in options.sites.split(","):
        folder = options.data / name
        if not (folder / "site.toml").is_file():
            folder = Path(shutil.copytree(folder, scratch / name, copy_function=shutil.copyfile))
            folder.chmod(0o755)
            write_site_toml(propose_site(folder), folder / "site.toml")
        found.append(folder)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of site folders; without it sites are made")
    parser.add_argument("--sites", default="", help="names of sites, separated by commas")
    parser.add_argument("--times", type=int, default=3, help="how often each line of the index is read when preparing")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--once", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.once:
        return once(options.data, options.times, options.once)
    if options.data and not options.sites:
        parser.error("--data needs --sites")
    report: dict[str, Any] = {"machine": platform.machine(), "cores": os.cpu_count(), "target": TARGET, "sites": {}}
    with tempfile.TemporaryDirectory() as scratch:
        for folder in folders(options, Path(scratch)):
            site = load_site(folder)
            report["sites"][folder.name] = {
                "rows": len(site.rows),
                "read": summary(reading(site, options.repeats), len(site.rows)),
                "prepare": summary(preparing(folder, options.times, options.repeats), options.times * len(site.rows)),
                "load": round(os.getloadavg()[0], 1),
            }
    if options.json:
        print(json.dumps(report, indent=1))
        return
    print("ms a row of the index: wall, processor time\n")
    print("| site | rows | what | in process | fenced | ratio | load |\n|---|---|---|---|---|---|---|")
    for name, site in report["sites"].items():
        for what in ("read", "prepare"):
            f = site[what]
            here, fenced = (f"{f[f'wall_{mode}_ms']}, {f[f'cpu_{mode}_ms']}" for mode in SIDES)
            ratio = f"{f['wall_ratio']}, {f['cpu_ratio']}"
            print(f"| {name} | {site['rows']} | {what} | {here} | {fenced} | {ratio} | {site['load']} |")
    worst = max(site["prepare"]["cpu_ratio"] for site in report["sites"].values())
    print(
        f"\npreparing at most {TARGET} times, in processor time: {'holds' if worst <= TARGET else 'MISSED'} ({worst})"
    )


if __name__ == "__main__":
    main()
