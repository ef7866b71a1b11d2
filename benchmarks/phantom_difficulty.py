"""How much a trained student beats the best threshold on each phantom, and what few labelled images cost.

    python benchmarks/phantom_difficulty.py [--phantom intraop] [--size 96] [--steps 250] [--json]

The threshold is chosen with hindsight: for each label the intensity interval, and for colour the channel or channel
difference, that is best on the very test images. A phantom is worth its name if the student still beats it clearly.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from omnifed.data.index import Row
from omnifed.data.prepare import SiteData, prepare
from omnifed.data.prepared import Prepared
from omnifed.data.site_folder import Site, load_site
from omnifed.evaluation.metrics import mean_dice
from omnifed.evaluation.predict import predict_masks
from omnifed.models.registry import build_student
from omnifed.models.spec import StudentSpec
from omnifed.training.loop import fit
from omnifed.training.objectives import supervised
from omnifed.training.spec import TrainSpec
from omnifed_sim.machine import processor
from omnifed_sim.phantoms import PHANTOMS, write_preset


def best_threshold(test: Prepared) -> float:
    """Mean Dice of the best interval a label, chosen on ``test`` itself."""
    images, masks = np.asarray(test.images, np.float32), np.asarray(test.masks)
    features = list(images.transpose(1, 0, 2, 3))
    if len(features) == 3:
        red, green, blue = features
        features += [images.mean(axis=1), red - green, green - blue, images.max(axis=1) - images.min(axis=1)]
    best = []
    for label in range(1, test.spec.classes):
        truth = masks == label
        best.append(max(_interval(feature, truth) for feature in features))
    return float(np.mean(best))


def _interval(feature: np.ndarray, truth: np.ndarray) -> float:
    """Mean Dice by case of the interval whose pooled Dice is largest; ends at each 2.5 % quantile."""
    ends = np.quantile(feature, np.linspace(0, 1, 41))
    below = np.concatenate([[0], np.histogram(feature, ends)[0].cumsum()])
    hits = np.concatenate([[0], np.histogram(feature[truth], ends)[0].cumsum()])
    pooled = 2 * (hits[None] - hits[:, None]) / np.maximum(below[None] - below[:, None] + truth.sum(), 1)
    low, high = np.unravel_index(pooled.argmax(), pooled.shape)
    found = (feature >= ends[low]) & (feature <= ends[high])
    cases = truth.any(axis=(1, 2))
    both = (found & truth).sum(axis=(1, 2))[cases]
    return float(np.mean(2 * both / (found.sum(axis=(1, 2)) + truth.sum(axis=(1, 2)))[cases]))


def student(data: SiteData, spec: StudentSpec, steps: int) -> tuple[float, float]:
    """Test Dice of a student trained on the site's masks, and the seconds that took."""
    model = build_student(spec, data.config.spec)
    start = time.perf_counter()
    fit(model, data.train, None, TrainSpec(steps=steps, lr=1e-3), supervised())
    return mean_dice(predict_masks(model, data.test), data.test), time.perf_counter() - start


def few(site: Site, wanted: int) -> Site:
    """The site with the masks of its first patients only, until ``wanted`` training rows keep theirs."""
    rows, left = [], wanted
    for row in site.rows:
        keep = row.split != "train" or left > 0
        left -= row.split == "train" and row.mask is not None
        rows.append(row if keep else Row(row.image, None, row.patient, row.split))
    return Site(site.config, site.root, tuple(rows))


def main() -> None:
    """Prints one line a phantom."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--phantom", choices=list(PHANTOMS), help="only this one")
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--student", default="omnisegnet:compact,stem_stride=2")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    spec = StudentSpec.parse(options.student)
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        sites = write_preset("modalities", Path(folder) / "sites", image_size=options.size)
        for number, path in enumerate(sites):
            if options.phantom not in (None, path.name):
                continue
            site = load_site(path)
            data = prepare(site, Path(folder) / f"data{number}")
            small = prepare(few(site, max(1, sum(r.mask is not None and r.split == "train" for r in site.rows) // 4)),
                            Path(folder) / f"few{number}")  # fmt: skip
            threshold = best_threshold(data.test)
            dice, seconds = student(data, spec, options.steps)
            dice_few, _ = student(small, spec, options.steps)
            lines.append(
                {
                    "phantom": path.name,
                    "labelled": int(data.train.has_mask.sum()),
                    "test": len(data.test),
                    "threshold_dice": round(threshold, 3),
                    "student_dice": round(dice, 3),
                    "ratio": round(dice / threshold, 2),
                    "labelled_few": int(small.train.has_mask.sum()),
                    "student_few_dice": round(dice_few, 3),
                    "train_seconds": round(seconds, 1),
                }
            )
            if not options.json:
                line = lines[-1]
                print(
                    f"{line['phantom']:14s} best threshold {threshold:.3f}   student {dice:.3f} "
                    f"(x{dice / threshold:.2f}, {line['labelled']} labelled, {seconds:.0f} s)   "
                    f"with {line['labelled_few']} labelled {dice_few:.3f}",
                    flush=True,
                )
    about = {"size": options.size, "steps": options.steps, "student": options.student, "machine": processor(),
             "threads": torch.get_num_threads()}  # fmt: skip
    print(json.dumps({**about, "phantoms": lines}) if options.json else about)


if __name__ == "__main__":
    main()
