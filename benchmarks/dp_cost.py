"""What differential privacy costs: a training step's time and memory beside a plain one, and Dice at several epsilons.

    python benchmarks/dp_cost.py [--size 96] [--student omnisegnet:compact,norm=group] [--json]
    python benchmarks/dp_cost.py --dice --patients 200 --steps 200 --batch 32

Steps are timed in turns, so that a busy machine slows both alike; the figures are medians. Each step takes all of
``--batch`` patients, as many as the plain step has images. Memory is the growth of a process's peak over its fit, each
side in a process of its own. ``--dice`` trains one dermoscopy phantom site (made here, three slices a patient) without
and with differential privacy and scores it on patients of their own. Target: at most 2.5 times the plain step.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import multiprocessing.connection
import platform
import secrets
import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from omnifed.data.normalise import normalise
from omnifed.data.prepared import Prepared
from omnifed.data.site import Normalisation
from omnifed.evaluation.metrics import mean_dice
from omnifed.evaluation.predict import predict_masks
from omnifed.models.base import SiteSpec
from omnifed.models.registry import build_student
from omnifed.models.spec import StudentSpec
from omnifed.privacy.dp.accounting import noise_multiplier
from omnifed.privacy.dp.gradients import PatientGradients
from omnifed.privacy.dp.randomness import KEY_BYTES, SecretDraws
from omnifed.privacy.dp.sampling import PatientBatches, sampling_rate
from omnifed.privacy.spec import DPSpec
from omnifed.training.batches import Batches
from omnifed.training.loop import FitResult, fit
from omnifed.training.objectives import supervised
from omnifed.training.spec import TrainSpec
from omnifed_client.private_training import CHUNK
from omnifed_sim.phantoms import PHANTOMS, Look

TARGET = 2.5
SLICES = 3


def site(patients: int, size: int, first: int) -> Prepared:
    """A dermoscopy phantom site."""
    phantom = PHANTOMS["dermoscopy"]
    images, masks, names = [], [], []
    for patient in range(first, first + patients):
        for image, mask in phantom.patient(patient, SLICES, size, Look(blur=0.3)):
            images += normalise([np.clip(image, 0, 255).astype(np.uint8)], Normalisation(kind="rgb"), 3)
            masks.append(mask)
            names.append(f"p{patient}")
    count = len(names)
    ids = tuple(f"{name}-{at}" for at, name in enumerate(names))
    spec = SiteSpec(3, len(phantom.labels), 2, "dermoscopy")
    return Prepared(
        spec,
        np.stack(images).astype(np.float16),
        np.stack(masks).astype(np.uint8),
        np.ones(count, bool),
        tuple(names),
        ids,
        ids,
        np.full((count, 2), np.nan, np.float32),
        np.ones(spec.classes, bool),
    )


def train(data: Prepared, student: str, spec: TrainSpec, sigma: float | None) -> tuple[torch.nn.Module, FitResult]:
    """A fit without (None) or with differential privacy."""
    model = build_student(StudentSpec.parse(student), data.spec)
    if sigma is None:
        return model, fit(model, data, None, spec, supervised(), batches=Batches(data, spec))
    draws = SecretDraws(secrets.token_bytes(KEY_BYTES))
    source = PatientBatches(data, spec, draws)
    expected = source.rate * len(source.patients)
    gradients = PatientGradients(draws, sigma=sigma, clip=DPSpec().clip, expected=expected, chunk=CHUNK)
    return model, fit(model, data, None, spec, supervised(), batches=source, gradients=gradients)


def peak_mib(link: multiprocessing.connection.Connection, options: argparse.Namespace, sigma: float | None) -> None:
    """Sends the growth of this process's peak memory over a fit."""
    torch.set_num_threads(1)
    data = site(options.batch, options.size, 0)
    # getrusage's peak outlives exec: that of a child begins at its parent's.
    Path("/proc/self/clear_refs").write_text("5")
    before = kib("VmRSS")
    train(data, options.student, TrainSpec(steps=3, batch_size=options.batch, precision="fp32"), sigma)
    link.send((kib("VmHWM") - before) / 1024)


def kib(field: str) -> int:
    """A figure of Linux about this process's memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def memory(options: argparse.Namespace, sigma: float | None) -> float:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=peak_mib, args=(there, options, sigma))
    process.start()
    found = here.recv()
    process.join()
    return float(found)


def cost(options: argparse.Namespace) -> dict[str, object]:
    data = site(options.batch, options.size, 0)
    spec = TrainSpec(steps=4, batch_size=options.batch, precision="fp32", schedule="constant")
    seconds: dict[str, list[float]] = {"plain": [], "private": []}
    for turn in range(options.turns + 1):
        for name, sigma in (("plain", None), ("private", 1.0)):
            result = train(data, options.student, spec, sigma)[1]
            if turn:  # the first one pays for what a process loads and plans once
                seconds[name].append(result.seconds / result.steps)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    peaks = {name: memory(options, sigma) for name, sigma in (("plain", None), ("private", 1.0))}
    ratio = medians["private"] / medians["plain"]
    return {
        "milliseconds_a_step": {name: round(1000 * value, 1) for name, value in medians.items()},
        "ratio": round(ratio, 3),
        "ratios_by_turn": [round(b / a, 2) for a, b in zip(seconds["plain"], seconds["private"], strict=True)],
        "target": TARGET,
        "holds": ratio <= TARGET,
        "peak_mib": {name: round(value) for name, value in peaks.items()},
        "memory_ratio": round(peaks["private"] / peaks["plain"], 2),
    }


def dice(options: argparse.Namespace, epsilons: Sequence[float]) -> dict[str, object]:
    data, held = site(options.patients, options.size, 0), site(40, options.size, 10_000)
    spec = TrainSpec(
        steps=options.steps, batch_size=options.batch, lr=options.lr, warmup=10, precision="fp32", seed=options.seed
    )
    rate, delta = sampling_rate(options.batch, options.patients), DPSpec().delta_of(options.patients)
    found: dict[str, object] = {"delta": round(delta, 5), "sampling_rate": rate, "steps": options.steps}
    sigmas = {f"epsilon {e:g}": noise_multiplier(e, delta, rate=rate, steps=options.steps) for e in epsilons}
    for name, sigma in {"plain": None, **sigmas}.items():
        model, _ = train(data, options.student, spec, sigma)
        score = mean_dice(predict_masks(model, held), held)
        found[name] = {"dice": round(score, 4), "sigma": sigma and round(sigma, 3)}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--student", default="omnisegnet:compact,norm=group")
    parser.add_argument("--size", type=int, default=96, help="side of the images in pixels")
    parser.add_argument("--batch", type=int, default=8, help="patients a step; expected ones with --dice")
    parser.add_argument("--turns", type=int, default=7, help="timed fits of four steps a side")
    parser.add_argument("--dice", action="store_true", help="Dice at several epsilons instead of costs")
    parser.add_argument("--epsilons", default="8,3,1")
    parser.add_argument("--patients", type=int, default=200)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    figures = dice(options, [float(e) for e in options.epsilons.split(",")]) if options.dice else cost(options)
    figures |= {"student": options.student, "size": options.size, "batch": options.batch}
    figures |= {"machine": f"{platform.machine()}, {options.threads} threads, torch {torch.__version__}"}
    if options.json:
        print(json.dumps(figures, indent=1))
        return
    for name, value in figures.items():
        print(f"{name:20} {value}")


if __name__ == "__main__":
    main()
