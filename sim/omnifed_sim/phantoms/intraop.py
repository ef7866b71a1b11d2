"""Intra-operative instruments: metal that mirrors the tissue; highlights, gauze, shadows and the rim look like it."""

from __future__ import annotations

import numpy as np

from omnifed.data.site import Normalisation
from omnifed_sim.phantoms.base import Pair, Phantom, Scene
from omnifed_sim.phantoms.look import acquire
from omnifed_sim.phantoms.shapes import Array, blob, field, grid, lay, place, stroke, warp


def _tissue(s: Scene) -> Array:
    b, shot, many = s.body, s.shot, s.look.distractors
    y, x = warp(b, s.size, 0.1, s.z)
    red = np.array([0.72, 0.29, 0.26]) * b.uniform(0.85, 1.1) + b.normal(0, 0.02, 3)
    folds = field(b, s.size, 8, 2) + 0.5 * field(shot, s.size, 18, 6, 0.5)
    image = np.empty((s.size, s.size, 3), np.float32)
    image[:] = red * np.clip(1 + 0.22 * folds - 0.1 * np.abs(folds), 0.3, 1.7)[..., None]
    image += 0.03 * field(shot, s.size, 40, 12, 0.3)[..., None]
    veins = np.clip(1 - np.abs(field(b, s.size, 10, 3, 0.5)) / 0.12, 0, 1)[..., None]
    image *= 1 - 0.35 * veins * np.array([0.5, 1, 0.9], np.float32)
    grey = np.array([0.62, 0.56, 0.53])
    for _ in range(b.poisson(0.8 * many)):  # fat and bone: yellowish grey
        fat = blob(b, y, x, *place(b, 0.9), b.uniform(0.1, 0.3), 0.25)
        lay(image, fat, grey * b.uniform(0.7, 1.2), 0.05, 0.8)
    if b.uniform() < 0.25 * many:  # gauze: woven, white to grey, straight edges like a shaft's
        gauze = stroke(y, x, *place(b, 0.9), b.uniform(0, np.pi), 0, b.uniform(0.1, 0.22))
        weave = 0.08 * np.sign(np.sin(60 * x) * np.sin(60 * y))[..., None]
        lay(image, gauze, grey * b.uniform(0.8, 1.3) + weave, 0.02, 0.9)
    for _ in range(b.poisson(0.8 * many)):  # shadows: as straight and dark as a black shaft
        line = stroke(y, x, *place(b, 0.7), b.uniform(0, np.pi), 0.1 * b.normal(), b.uniform(0.06, 0.16))
        lay(image, line, image * 0.3, 0.06, 0.9)
    return image


def _instrument(s: Scene, image: Array, mask: np.ndarray, shown: bool) -> None:
    """Draws one instrument: a shaft from the rim, two jaws at its end; random numbers are used up even if not shown.

    The instrument is the patient's, its pose the shot's: frames are seconds apart, and instruments move fast.
    """
    b, shot = s.body, s.shot
    y, x = grid(s.size)
    width, long = b.uniform(0.09, 0.14), b.uniform(0.3, 0.46)
    dark, shine = b.uniform() < 0.5, b.uniform(-0.4, 0.4)
    turn, opening = shot.uniform(0, 2 * np.pi), abs(shot.normal(0.12, 0.12))
    ty, tx = place(shot, 0.45)
    c, si = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    u, v = c * (x - tx) + si * (y - ty), c * (y - ty) - si * (x - tx)
    shaft = np.minimum(width - np.abs(v), -u)
    jaws = np.full_like(u, -1)
    for side in (-1, 1):
        middle = side * (opening * u + 0.25 * width)
        jaws = np.maximum(jaws, np.minimum(0.72 * width * (1 - 0.6 * u / long) - np.abs(v - middle), long - u))
    jaws = np.minimum(jaws, u)
    if not shown:
        return
    lay(image, np.maximum(shaft, jaws) + 0.03, image * 0.6, 0.06)  # shadow on the tissue
    around = np.clip(1 - (v / width - shine) ** 2, 0, 1)
    mirror = image.mean(axis=(0, 1)) * (1 + 0.3 * field(s.shot, s.size, 6)[..., None])
    metal = np.array([0.55, 0.56, 0.58]) * (0.45 + 0.75 * around[..., None])
    black = np.array([0.12, 0.11, 0.12]) * (0.6 + 1.2 * around[..., None])
    lay(image, shaft, 0.8 * (black if dark else metal) + 0.2 * mirror, 0.015)
    lay(image, np.minimum(shaft, u + 0.05), black, 0.01)  # the joint
    lay(image, jaws, 0.82 * metal + 0.18 * mirror, 0.015)
    mask[shaft > 0] = 1
    mask[jaws > 0] = 2


def _paint(s: Scene) -> Pair:
    shot, many = s.shot, s.look.distractors
    image = _tissue(s)
    mask = np.zeros((s.size, s.size), np.uint8)
    second = s.body.uniform() < 0.45
    _instrument(s, image, mask, True)
    _instrument(s, image, mask, bool(second))
    y, x = grid(s.size)
    for _ in range(shot.poisson(8 * many)):  # wet highlights, on tissue and metal alike
        spot = blob(shot, y, x, *place(shot, 0.9), shot.uniform(0.015, 0.05), 0.4)
        lay(image, spot, [0.95, 0.93, 0.92], 0.02, shot.uniform(0.6, 1))
    if shot.uniform() < 0.3 * many:  # smoke
        image += (0.6 - image) * np.clip(0.25 + 0.25 * field(shot, s.size, 4), 0, 0.6)[..., None]
    image *= np.clip(1.15 - 0.45 * (y**2 + x**2), 0, 1)[..., None]
    rim = np.float32(s.body.uniform(1.02, 1.4)) - np.hypot(y, x)
    image = acquire(image, shot, s.look, noise=0.02)
    lay(image, -rim, 0.03, 0.01)
    mask[rim <= 0] = 0
    return np.clip(image, 0, 1) * 255, mask


PHANTOM = Phantom(
    name="intraop",
    modality="intraop",
    labels={0: "background", 1: "shaft", 2: "tip"},
    channels=3,
    normalisation=Normalisation(kind="rgb"),
    native="jpeg",
    rare=(),
    paint=_paint,
)
