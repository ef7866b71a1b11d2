"""Dice of students and rivals: one network for all sites, equal steps, data, augmentation and optimiser.

    python benchmarks/edge_dice.py --data DATA --networks cmunext-s,unet,omnisegnet:compact,stem_stride=2

A seed draws weights, batches, augmentation and the split by patient, the same for all networks. A network's classes are
the background and each site's own labels; loss and test of a site see background and its own. The last state is tested:
nothing is chosen by validation, whose scores are written too, for choices between networks.

Each training writes OUT/NETWORK/seed-S.json (settings and Dice of every case and label) and its weights beside it, seed
by seed. What is there already is not made again, and several processes may work on one OUT.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from edge.networks import build, split_names
from edge.runs import claim, run_file
from edge.sites import BySite, Mixed, Part, case_rows, classes_of, load_parts
from safetensors.torch import save

from omnifed.files import write_atomic
from omnifed.training.loop import fit
from omnifed.training.spec import TrainSpec


def train(network: str, parts: list[Part], spec: TrainSpec) -> tuple[torch.nn.Module, dict[str, Any]]:
    """Trains a network on the parts and tests it."""
    model = build(network, classes_of(parts), seed=spec.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed)  # dropout of the transformers
        result = fit(model, parts[0].data.train, None, spec, BySite(parts), batches=Mixed(parts, spec))
    facts = {
        "network": network,
        "seed": spec.seed,
        "parameters": sum(p.numel() for p in model.parameters()),
        "seconds": round(result.seconds, 1),
        "precision": str(result.precision),
        "loss": result.loss,
        "spec": spec.model_dump(),
        "sites": {part.name: part.classes for part in parts},
        "cases": case_rows(model, parts, "test") + case_rows(model, parts, "val"),
    }
    return model, facts


def mean_by_site(rows: list[dict[str, Any]], split: str = "test") -> dict[str, float]:
    """Mean over cases and labels."""
    dice: dict[str, list[float]] = {}
    for row in rows:
        if row["split"] == split:
            dice.setdefault(row["site"], []).append(row["dice"])
    return {site: float(np.mean(values)) for site, values in dice.items()}


def settings(known: argparse.Namespace, seed: int) -> TrainSpec:
    """The same for every network."""
    return TrainSpec(
        steps=known.steps,
        batch_size=known.batch,
        lr=known.lr,
        warmup=known.steps // 10,
        precision=known.precision,
        seed=seed,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of site folders")
    parser.add_argument("--sites", default="isic,intraop,cxr_lungs,curvas_ct")
    parser.add_argument("--networks", required=True)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch", type=int, default=12, help="a multiple of the number of sites")
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--out", type=Path, default=Path("runs/bench-edge"))
    known = parser.parse_args()
    for seed in map(int, known.seeds.split(",")):
        names = known.sites.split(",")
        parts = load_parts(known.data, names, known.out / "prepared", side=known.image_size, seed=seed)
        for network in split_names(known.networks):
            file = run_file(known.out, network, seed)
            with claim(file) as mine:
                if mine:
                    began = time.perf_counter()
                    model, facts = train(network, parts, settings(known, seed))
                    facts["image_size"] = known.image_size
                    tensors = {name: value.contiguous() for name, value in model.state_dict().items()}
                    write_atomic(file.with_suffix(".safetensors"), save(tensors))
                    write_atomic(file, json.dumps(facts).encode())
                    text = "  ".join(f"{site} {dice:.3f}" for site, dice in mean_by_site(facts["cases"]).items())
                    spent = time.perf_counter() - began
                    print(f"seed {seed}  {network}: {text}  {spent:.0f} s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
