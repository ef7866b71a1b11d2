"""Students and rivals side by side: Dice, paired differences, latency, and the plot of one against the other.

    python benchmarks/edge_report.py runs/bench-edge --pair omnisegnet:compact,stem_stride=2 cmunext-s

Reads what `edge_dice.py` and `edge_latency.py` left in OUT (either alone will do), prints the tables and writes
OUT/report.md, OUT/pareto.svg and OUT/pareto.png. Intervals and p are by patient over all seeds.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from edge.networks import RIVALS
from edge.pareto import plot
from edge.scores import Scores, mean, read_scores
from edge.tables import dice_table, latency_table, pair_table, precision_table

from omnifed.files import write_atomic


def trained(out: Path, split: str) -> dict[str, Scores]:
    """Scores of every network in OUT, rivals first."""
    runs = [json.loads(file.read_bytes()) for file in sorted(out.glob("*/seed-*.json"))]
    seeds = sorted({run["seed"] for run in runs})
    order = [*RIVALS, *sorted({run["network"] for run in runs} - set(RIVALS))]
    found = {name: read_scores(out, name, seeds, split) for name in order}
    return {name: scores for name, scores in found.items() if scores}


def read(file: Path) -> dict[str, Any]:
    """A JSON file; nothing if it is not there."""
    return json.loads(file.read_bytes()) if file.is_file() else {}


def comparable(scores: dict[str, Scores]) -> dict[str, float]:
    """Mean Dice of the networks that all seeds were trained with: the others saw other test cases."""
    seeds = {case.seed for own in scores.values() for case in own}
    return {name: mean(own).mean for name, own in scores.items() if {case.seed for case in own} == seeds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--pair", nargs=2, action="append", default=[], metavar=("STUDENT", "RIVAL"))
    parser.add_argument("--split", choices=("test", "val"), default="test", help="val to choose, test to report")
    known = parser.parse_args()
    scores, measured = trained(known.out, known.split), read(known.out / "latency.json")
    latency = measured.get("networks", {})
    text = []
    if scores:
        text += [f"## Dice ({known.split})", dice_table(scores)]
        pairs = [(student, rival) for student, rival in known.pair if {student, rival} <= set(scores)]
        text += ["## Paired differences", pair_table(scores, pairs, latency)] if pairs else []
    if latency:
        side, rate = measured["image_size"], max(measured["sgemm_gflops"].values())
        text += [
            f"## Latency, {side} x {side}",
            f"{measured['machine']}; medians of {measured['rounds']} rounds; waited for a core "
            f"{measured['waited']:.0%} of the time; fastest float32 product {rate:.0f} GFLOP/s.\n",
        ]
        for threads in sorted({int(way.split()[-1]) for way in next(iter(latency.values()))["latency"]}):
            text += [f"{threads} thread(s)\n", latency_table(latency, threads)]
    if lost := read(known.out / "precision.json"):
        text += ["## Dice points by precision", precision_table(lost)]
    if scores and latency:
        plot(comparable(scores), latency, measured["image_size"], known.out)
    page = "\n".join(text)
    write_atomic(known.out / "report.md", page.encode())
    print(page)


if __name__ == "__main__":
    main()
