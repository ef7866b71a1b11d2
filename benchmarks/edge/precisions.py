"""What int8 and bf16 cost in Dice: trained networks tested in each engine and precision, paired by case with fp32."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from edge.networks import build
from edge.onnx_files import to_int8, to_onnx
from edge.runs import run_file
from edge.scores import by_case, difference, mean
from edge.sites import Part, case_rows, classes_of, colour, load_parts
from safetensors.torch import load_file
from torch import Tensor

from omnifed.devices.engines import openvino_model, openvino_request, ort_session
from omnifed.export.card import INPUT
from omnifed.models.base import Out

WAYS = (("ort", "fp32"), ("ort", "int8"), ("openvino", "fp32"), ("openvino", "bf16"), ("openvino", "int8"))
"""Engines and precisions; the first is what the others are held against. ONNX Runtime has no bf16 on a CPU."""
SEED = 0
A_SITE = 16
"""Training images of each site that calibrate int8."""


def dice_by_precision(names: Sequence[str], out: Path, data: Path, sites: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Dice of each network in each way, and its difference to fp32 in points of 100.

    Args:
        names: networks; one that is not trained is left out.
        out: folder of `edge_dice.py`.
        data: folder of site folders.
        sites: as in the training.
    """
    found: dict[str, dict[str, Any]] = {}
    for name in names:
        file = run_file(out, name, SEED)
        if not file.is_file():
            continue
        side = json.loads(file.read_bytes())["image_size"]
        parts = load_parts(data, sites, out / "prepared", side=side, seed=SEED)
        found[name] = _one(name, file.with_suffix(".safetensors"), parts, side)
    return found


def _one(name: str, weights: Path, parts: Sequence[Part], side: int) -> dict[str, Any]:
    network = build(name, classes_of(parts))
    network.load_state_dict(load_file(weights))
    plain = to_onnx(network, side)
    files = {"fp32": plain, "bf16": plain, "int8": to_int8(plain, calibration(parts))}
    scores = {
        f"{engine} {precision}": by_case(case_rows(runner(engine, precision, files[precision]), parts, "test"), SEED)
        for engine, precision in WAYS
    }
    first = next(iter(scores.values()))
    result = {}
    for way, own in scores.items():
        delta = difference(own, first)
        points = {"points": 100 * delta.mean, "low": 100 * delta.low, "high": 100 * delta.high, "cases": delta.n}
        result[way] = {"dice": mean(own).mean, **points}
    return result


def calibration(parts: Sequence[Part]) -> Iterator[np.ndarray]:
    """Training images (1, 3, H, W) of each site in turn, evenly spread."""
    for part in parts:
        images = part.data.train.images
        for row in np.linspace(0, len(images) - 1, min(A_SITE, len(images))).astype(int):
            yield colour(torch.from_numpy(np.asarray(images[row : row + 1], np.float32))).numpy()


def runner(engine: str, precision: str, model: bytes) -> Callable[[Tensor], Out]:
    """A model of one image as a function of images (B, 3, H, W)."""
    infer: Callable[[np.ndarray], np.ndarray]
    if engine == "ort":
        session = ort_session(model, 1)
        infer = lambda image: session.run(None, {INPUT: image})[0]  # noqa: E731
    else:
        network = openvino_model(model)
        request = openvino_request(network, list(network.inputs[0].shape), 1, "bf16" if precision == "bf16" else "fp32")
        infer = lambda image: request.infer([image])[0]  # noqa: E731

    def run(images: Tensor) -> Out:
        return Out(torch.from_numpy(np.concatenate([np.array(infer(image[None].numpy())) for image in images])))

    return run
