"""Tables of the comparison in markdown: Dice, paired differences, latency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edge.scores import Scores, difference, mean

HEAD = "all sites"
"""Mean over all cases."""


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A markdown table whose first column is left-aligned, padded to be read as text too."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    lines = [[cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))]
             for row in (head, *rows)]  # fmt: skip
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join("| " + " | ".join(row) + " |" for row in (lines[0], rule, *lines[1:])) + "\n"


def dice_table(scores: Mapping[str, Scores]) -> str:
    """Test Dice by site and over all cases with its 95 % interval by patient."""
    sites = sorted({case.site for own in scores.values() for case in own})
    rows = []
    for name, own in scores.items():
        whole = mean(own)
        seeds = ",".join(map(str, sorted({case.seed for case in own})))
        cells = [f"{mean(own, site).mean:.3f}" for site in sites]
        rows.append([name, *cells, f"{whole.mean:.3f}", f"{whole.low:.3f} .. {whole.high:.3f}", seeds])
    return table(["network", *sites, HEAD, "95 %", "seeds"], rows)


def pair_table(scores: Mapping[str, Scores], pairs: Sequence[tuple[str, str]], latency: Mapping[str, Any]) -> str:
    """Student minus rival in Dice points, paired by case, by site and over all; their fp32 latencies' ratios."""
    rows = []
    for student, rival in pairs:
        ratios = [_ratio(latency, student, rival, f"{engine} fp32 1") for engine in ("ort", "openvino")]
        sites = sorted({case.site for case in scores[student]})
        for site in (None, *sites):
            found = difference(scores[student], scores[rival], site)
            interval = f"{100 * found.low:+.2f} .. {100 * found.high:+.2f}"
            about = [f"{100 * found.mean:+.2f}", interval, f"{found.p:.3f}", str(found.n), str(found.groups)]
            rows.append([f"{student} - {rival}", site or HEAD, *about, *(ratios if site is None else ("", ""))])
    head = ["student - rival", "site", "points", "95 %", "p", "cases", "patients", "ORT ratio", "OpenVINO ratio"]
    return table(head, rows)


def _ratio(latency: Mapping[str, Any], student: str, rival: str, way: str) -> str:
    own, other = (latency.get(name, {}).get("latency", {}).get(way) for name in (student, rival))
    return f"{own['p50_ms'] / other['p50_ms']:.2f}" if own and other else "-"


def latency_table(latency: Mapping[str, Any], threads: int) -> str:
    """Median ms of each engine and precision, and what a network is: parameters, MACs, bytes, memory, roofline."""
    ways = [way for way in next(iter(latency.values()))["latency"] if way.endswith(f" {threads}")]
    rows = []
    for name, about in latency.items():
        times = [f"{about['latency'][way]['p50_ms']:.2f}" for way in ways]
        size = [f"{about['parameters'] / 1e6:.2f}", f"{about['gmac']:.2f}", f"{about['bytes']['fp32'] / 2**20:.1f}"]
        memory = [f"{about['peak_mib'][f'{engine} fp32']:.0f}" for engine in ("ort", "openvino")]
        best = f"{100 * max(about['roofline'].values()):.0f} %" if about["roofline"] else "-"
        rows.append([name, *times, *size, *memory, best])
    names = [way.rpartition(" ")[0].replace("ort", "ORT").replace("openvino", "OpenVINO") for way in ways]
    head = ["network", *(f"{name} ms" for name in names), "M par", "GMAC", "MiB", "ORT peak MiB", "OpenVINO peak MiB"]
    return table([*head, "roofline"], rows)


def precision_table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Dice points lost or gained against fp32 in ONNX Runtime, paired by case."""
    ways = list(next(iter(found.values())))
    rows = [
        [name, f"{own[ways[0]]['dice']:.3f}", *(_points(own[way]) for way in ways[1:])] for name, own in found.items()
    ]
    return table(["network", f"Dice {ways[0]}", *ways[1:]], rows)


def _points(cell: Mapping[str, float]) -> str:
    return f"{cell['points']:+.2f} [{cell['low']:+.2f}, {cell['high']:+.2f}]"
