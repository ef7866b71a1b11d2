"""What a search found, as tables for the terminal. Needs neither torch nor matplotlib."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table
from rich.text import Text

from omnifed.distill.spec import TERMS
from omnifed.reporting.run import load_run
from omnifed.reporting.search_words import TABLE3, agreement_words, names_of, points, told_apart_words, where
from omnifed.search.results import ArchitectureResult, DeviceResult, WeightResult


def search_tables(run: Path) -> list[Table]:
    """The tables of the searches that a run folder holds.

    Args:
        run: the run folder.

    Raises:
        OmniFedError: OF422 or OF423, as :func:`omnifed.reporting.run.load_run`.
    """
    loaded = load_run(run)
    return [search_table(result) for result in (loaded.architecture, loaded.weights) if result]


def search_table(result: ArchitectureResult | WeightResult) -> Table:
    """The chosen students by class of devices, or lambda by site, with what the data tell of them below."""
    return _students(result) if isinstance(result, ArchitectureResult) else _lambdas(result)


def _students(result: ArchitectureResult) -> Table:
    counts = f"{result.trials} trials, {result.failed} failed, cost {result.cost:.2f} x the balanced student's training"
    table = _table(f"Students ({counts})", " ".join(agreement_words(result.agreement)))
    table.add_column("devices", overflow="fold")
    table.add_column("student", overflow="fold", min_width=12)
    for name in ("Dice", "p95 in ms", "MiB"):
        table.add_column(name, justify="right")
    for device in result.devices:
        table.add_row(*map(Text, _student(result, device)))
    return table


def _student(result: ArchitectureResult, device: DeviceResult) -> list[str]:
    network = next((n for n in result.networks if n.key == device.chosen), None)
    member = next((m for m in device.front if m.key == device.chosen), None)
    if network is None or member is None:
        return [where(device), "none", "-", f"- of {device.latency_ms:g}", "-"]
    spec = network.student
    return [
        where(device),
        f"{names_of(result)(network.key)}\nalpha {spec.alpha:.2f}, beta {spec.beta:.2f}",
        f"{network.dice:.3f} ± {network.sd:.3f}" + ("" if network.trials else "\npredicted"),
        f"{member.p95_ms:.1f} of {device.latency_ms:g}\n{device.evidence}",
        f"{member.peak_mib:.0f}",
    ]


def _lambdas(result: WeightResult) -> Table:
    counts = f"{result.trials} trials, {result.failed} failed"
    table = _table(f"OmniKD weights, gain over Table 3's mean in Dice points ({counts})", told_apart_words(result))
    table.add_column("site")
    for term in TERMS:
        table.add_column(term, justify="right")
    table.add_column("gain, 95 % interval", justify="right")
    table.add_row("Table 3's mean", *(f"{TABLE3[term]:.2f}" for term in TERMS), "0")
    table.add_section()
    for row in (result.universal, *result.sites):
        values = [f"{row.weights.get(term, 0.0):.2f}" for term in TERMS]
        style = "bold" if row.gain.told_apart else ""
        table.add_row(Text(row.site), *values, Text(points(row.gain), style=style))
    return table


def _table(title: str, caption: str) -> Table:
    return Table(title=title, title_justify="left", caption=Text(caption), caption_justify="left")
