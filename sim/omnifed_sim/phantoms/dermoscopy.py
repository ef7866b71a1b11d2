"""Dermoscopy: a pigmented lesion among hair, shadows, stains and small spots of the very same colour."""

from __future__ import annotations

import numpy as np

from omnifed.data.site import Normalisation
from omnifed_sim.phantoms.base import Pair, Phantom, Scene
from omnifed_sim.phantoms.look import acquire
from omnifed_sim.phantoms.shapes import blob, field, grid, lay, place, stroke, warp


def _paint(s: Scene) -> Pair:
    b, shot, many = s.body, s.shot, s.look.distractors
    y0, x0 = grid(s.size)
    skin = np.array([0.86, 0.66, 0.55]) * b.uniform(0.72, 1.08) + b.normal(0, 0.02, 3)
    skin = skin.astype(np.float32)
    depth = b.uniform(0.28, 0.68)
    pigment = skin * (1 - depth * np.array([0.75, 1.0, 1.05]) + shot.normal(0, 0.03, 3)).astype(np.float32)
    image = np.empty((s.size, s.size, 3), np.float32)
    image[:] = skin * (
        1 + 0.05 * field(shot, s.size, 4)[..., None] + 0.03 * field(shot, s.size, 40, 10, 0.3)[..., None]
    )
    image[..., 1:] *= 1 - 0.05 * np.abs(field(shot, s.size, 6))[..., None]

    # what looks like a lesion: stains and shadows of the same colour without network and border, and freckles
    for _ in range(shot.poisson(1.6 * many)):
        y, x = warp(shot, s.size, 0.08, high=3)
        stain = blob(shot, y, x, *place(shot, 0.9), shot.uniform(0.15, 0.4), 0.25)
        lay(image, stain, image * (pigment / skin), 0.14, shot.uniform(0.5, 0.95))
    for _ in range(shot.poisson(5 * many)):
        spot = blob(shot, y0, x0, *place(shot, 0.95), shot.uniform(0.02, 0.07), 0.2)
        lay(image, spot, pigment * shot.uniform(0.9, 1.1), 0.02, shot.uniform(0.5, 1))

    y, x = warp(shot, s.size, 0.05, high=9)
    radius = shot.uniform(0.22, 0.58)
    cy, cx = shot.normal(0, 0.17, 2)
    lesion = blob(shot, y, x, cy, cx, radius, 0.2)
    network = np.clip(1 - np.abs(field(shot, s.size, 34, 16, 0.2)) / 0.45, 0, 1)
    patches = 0.16 * field(shot, s.size, 7, 2)
    inner = np.clip(0.66 + patches + 0.34 * network, 0.2, 1.15)
    # the pigment thins out towards a part of the border, so that the edge has to be completed
    inner *= np.clip(0.85 + 0.35 * field(shot, s.size, 3), 0.4, 1.05)
    coloured = image + (pigment - image) * inner[..., None]
    if shot.uniform() < 0.3:
        lay(coloured, blob(shot, y, x, cy, cx, 0.4 * radius, 0.3), skin * [0.8, 0.78, 0.85], 0.08, 0.6)
    lay(image, lesion, coloured, shot.uniform(0.02, 0.06))

    for _ in range(shot.poisson(4 * many)):
        hair = stroke(y0, x0, *place(shot, 0.9), shot.uniform(0, np.pi), shot.normal(0, 0.3), 0.008)
        lay(image, hair, pigment * 0.6, 0.01, shot.uniform(0.5, 0.9))
    rim = np.float32(b.uniform(1.0, 1.35)) - np.hypot(y0, x0)
    lay(image, -rim, pigment * 0.5, 0.2, 0.9)
    image = acquire(image, shot, s.look, noise=0.02)
    return np.clip(image, 0, 1) * 255, (lesion > 0).astype(np.uint8)


PHANTOM = Phantom(
    name="dermoscopy",
    modality="dermoscopy",
    labels={0: "background", 1: "lesion"},
    channels=3,
    normalisation=Normalisation(kind="rgb"),
    native="jpeg",
    rare=(),
    paint=_paint,
)
