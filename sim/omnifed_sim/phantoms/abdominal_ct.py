"""Abdominal CT, liver: Hounsfield units; spleen, muscle and bowel share the liver's values, lesions belong to it."""

from __future__ import annotations

import numpy as np

from omnifed.data.site import Normalisation
from omnifed_sim.phantoms.abdomen import anatomy
from omnifed_sim.phantoms.base import Pair, Phantom, Scene
from omnifed_sim.phantoms.look import acquire
from omnifed_sim.phantoms.shapes import field, grid, lay, soft


def _paint(s: Scene) -> Pair:
    a, b, shot, phase = anatomy(s), s.body, s.shot, s.look.phase
    liver = 55 + 45 * phase + b.normal(0, 8)
    near = lambda spread: liver + b.normal(0, spread)  # noqa: E731
    mottle = field(shot, s.size, 24, 6, 0.5)
    image = np.full((s.size, s.size), -1000, np.float32)
    y, x = grid(s.size)
    table = 0.02 - np.abs(y - np.float32(0.86) + 0.12 * x**2)
    lay(image, table, 30, 0.01, 0.5)
    lay(image, a.body, -100 + 12 * mottle, 0.01)
    lay(image, a.wall, 52 + 15 * mottle, 0.02)
    lay(image, a.cavity, -92 + 15 * mottle, 0.03)
    lay(image, a.vessel, liver + 60 * phase)
    lay(image, a.bowel, near(12) + 18 * mottle, 0.02)
    gas = np.minimum(a.bowel - 0.03, field(b, s.size, 8, 2) * 0.1 - 0.08 / max(s.look.distractors, 0.1))
    lay(image, gas, -600, 0.01)
    lay(image, a.stomach, near(12), 0.015)
    lay(image, a.stomach - 0.05, b.uniform(15, 90) + 20 * mottle, 0.02)
    lay(image, np.minimum(a.stomach - 0.05, -0.24 - y), -700, 0.01)
    lay(image, a.kidney, near(15) + 30 * phase, 0.015)
    lay(image, a.spleen, near(10), 0.02)
    lay(image, a.liver, liver + 5 * mottle, 0.02)
    image += 45 * phase * a.veins * soft(a.liver, 0.02)
    lay(image, a.lesions, liver - b.uniform(20, 55), 0.03)
    lay(image, a.gallbladder, 12, 0.02)
    lay(image, a.bone, 220 + 90 * mottle, 0.015)
    # the scanner sees -160..240 HU as 0..1: its gain and noise are given on that scale, gas stays gas
    seen = acquire((np.clip(image, -400, 600) + 160) / 400, shot, s.look, noise=0.045, multiplicative=False)
    return np.where(image < -400, image, seen * 400 - 160), (a.liver > 0).astype(np.uint8)


PHANTOM = Phantom(
    name="abdominal_ct",
    modality="ct",
    labels={0: "background", 1: "liver"},
    channels=1,
    normalisation=Normalisation(kind="window", window=(-160, 240)),
    native="dicom",
    rare=(),
    paint=_paint,
)
