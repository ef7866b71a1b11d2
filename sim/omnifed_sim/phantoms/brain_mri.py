"""Brain MR tissue: deep grey looks as the cortex does, ventricles as the sulci do, the scalp as white matter does."""

from __future__ import annotations

import numpy as np

from omnifed.data.site import Normalisation
from omnifed_sim.phantoms.base import Pair, Phantom, Scene
from omnifed_sim.phantoms.look import acquire
from omnifed_sim.phantoms.shapes import Array, blob, ellipse, field, lay, place, warp

SIGNAL = {"scalp": (0.85, 0.6), "skull": (0.12, 0.1), "csf": (0.16, 0.95), "grey": (0.48, 0.6), "white": (0.72, 0.42)}
"""Signal (0..1) by tissue, (T1, T2)."""


def _twins(s: Scene, y: Array, x: Array, cy: float, cx: float, ry: float, rx: float, angle: float) -> Array:
    """Two mirrored ellipses beside the midline, a little unlike."""
    b = s.body
    left = ellipse(y, x, cy + b.normal(0, 0.012), -cx + b.normal(0, 0.01), ry, rx, angle)
    return np.maximum(left, ellipse(y, x, cy + b.normal(0, 0.012), cx + b.normal(0, 0.01), ry, rx, -angle))


def _paint(s: Scene) -> Pair:
    b, shot, z = s.body, s.shot, s.z
    y, x = warp(b, s.size, 0.025, z)
    phase = 0.4 * s.look.phase
    tone = {k: (t1 + (t2 - t1) * phase) * float(np.exp(b.normal(0, 0.05))) for k, (t1, t2) in SIGNAL.items()}
    shrink = 1 - 0.12 * z * z - 0.1 * max(z, 0)
    head = ellipse(y, x, 0, 0, b.uniform(0.84, 0.97) * shrink, b.uniform(0.7, 0.83) * shrink)
    scalp, skull = b.uniform(0.04, 0.08), b.uniform(0.03, 0.06)
    brain = head - scalp - skull

    atrophy = b.uniform(0.7, 1.5)
    folds = np.abs(field(b, s.size, 17, 7, 0.3) + 0.25 * z * field(b, s.size, 17, 7, 0.3))
    depth = np.clip(brain / 0.34, 0, 1)
    valley = (0.55 - folds) * (1 - depth) ** 0.7  # largest on the ground of a sulcus near the surface
    fissure = 0.018 * atrophy - np.abs(x + 0.01 * field(b, s.size, 5)) - 0.05 * (ellipse(y, x, 0, 0, 0.3, 0.3) > 0)
    sulcus = np.maximum(valley - 0.42 / atrophy, fissure)
    tissue = np.minimum(brain - 0.02 * atrophy, -sulcus * 0.25)
    ribbon = np.maximum(valley - 0.42 / atrophy + 0.34, fissure * 4 + 0.28)
    white = np.minimum(brain - 0.02 * atrophy - 0.055, -ribbon * 0.2)

    wide, tilt = b.uniform(0.04, 0.085) * atrophy, b.uniform(0.15, 0.4)
    close = max(0.0, 1 - (z / 0.95) ** 2) ** 0.5
    ventricle = np.maximum(
        _twins(s, y, x, -0.14, 0.09 + 0.5 * wide, 0.17, wide, tilt) - 0.1 * (1 - close),
        _twins(s, y, x, 0.2, 0.13 + 0.5 * wide, 0.16, 0.8 * wide, -1.4 * tilt) - 0.1 * (1 - close),
    )
    deep = np.maximum(
        _twins(s, y, x, -0.13, 0.2 + wide, 0.12, 0.05, 0.2) - 0.15 * (1 - close),
        _twins(s, y, x, 0.0, 0.3 + wide, 0.15, 0.06, -0.25) - 0.15 * (1 - close),
    )
    deep = np.maximum(deep, _twins(s, y, x, 0.09, 0.1 + 0.4 * wide, 0.1, 0.08, 0.0) - 0.15 * (1 - close))
    deep = np.minimum(deep, tissue)
    ventricle = np.minimum(ventricle, np.minimum(tissue, -deep))

    mottle = field(shot, s.size, 24, 5, 0.6)
    image = np.full((s.size, s.size), 0.04, np.float32)
    lay(image, head, tone["scalp"] * (1 + 0.12 * mottle))
    lay(image, head - scalp, tone["skull"])
    marrow = np.minimum(head - scalp - 0.3 * skull, 0.4 * skull - (head - scalp - 0.3 * skull))
    lay(image, marrow, tone["grey"], 0.01, 0.6)
    lay(image, brain, tone["csf"])
    lay(image, tissue, tone["grey"] * (1 + 0.04 * mottle))
    lay(image, white, tone["white"] * (1 + 0.04 * mottle), 0.02)
    for _ in range(b.poisson(4 * s.look.distractors)):  # lesions of the white matter: grey, but no grey matter
        spot = blob(b, y, x, *place(b, 0.45), b.uniform(0.025, 0.07), 0.25)
        lay(image, np.minimum(spot, white - 0.03), tone["grey"], 0.015, 0.9)
    lay(image, deep, tone["grey"] + 0.25 * (tone["white"] - tone["grey"]) * b.uniform(0, 1), 0.025)
    lay(image, ventricle, tone["csf"], 0.015)
    mask = np.zeros((s.size, s.size), np.uint8)
    for label, level in ((1, tissue), (2, white), (4, deep), (3, ventricle)):
        mask[level > 0] = label
    image = acquire(image, shot, s.look, noise=0.045)
    return np.clip(np.abs(image), 0, 1.6) * 800, mask


PHANTOM = Phantom(
    name="brain_mri",
    modality="brain-mri",
    labels={0: "background", 1: "grey-matter", 2: "white-matter", 3: "ventricles", 4: "deep-grey"},
    channels=1,
    normalisation=Normalisation(kind="percentile", percentiles=(0.5, 99.5)),
    native="nifti",
    rare=(),
    paint=_paint,
)
