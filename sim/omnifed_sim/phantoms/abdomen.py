"""The anatomy that the abdominal CT and MR phantoms share: one axial slice as named level maps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from omnifed_sim.phantoms.base import Scene
from omnifed_sim.phantoms.shapes import Array, blob, ellipse, field, warp


@dataclass(frozen=True)
class Abdomen:
    """Levels (H, W), positive inside, in the order in which they are painted.

    Attributes:
        body, wall, cavity: skin outline, muscle, what lies inside of it.
        bone, vessel: vertebra and ribs; aorta and cava.
        bowel, stomach, gallbladder: hollow organs.
        kidney, spleen, liver: organs.
        lesions: in the liver; nowhere positive in a healthy patient or slice.
        veins: (H, W) 0..1, branches in the liver.
    """

    body: Array
    wall: Array
    cavity: Array
    bone: Array
    vessel: Array
    bowel: Array
    stomach: Array
    gallbladder: Array
    kidney: Array
    spleen: Array
    liver: Array
    lesions: Array
    veins: Array


def _swell(z: float, centre: float, width: float) -> float:
    """Size of an organ at height ``z``, 0..1: largest at ``centre``, gone ``width`` away."""
    return float(np.sqrt(max(0.0, 1 - ((z - centre) / width) ** 2)))


def _several(levels: list[Array]) -> Array:
    return np.asarray(np.maximum.reduce(levels), np.float32)


def anatomy(s: Scene) -> Abdomen:
    """Draws the organs of a patient at height ``s.z`` (1 the dome of the liver, -1 below the kidneys)."""
    b, z = s.body, s.z
    y, x = warp(b, s.size, 0.035, z)
    zoom = np.float32(b.uniform(1.02, 1.16))
    y, x = y / zoom, x / zoom
    tall, wide = b.uniform(0.58, 0.74), b.uniform(0.76, 0.86)
    body = ellipse(y, x, 0, 0, tall, wide)
    fat = b.uniform(0.03, 0.12)
    wall = body - fat
    cavity = wall - b.uniform(0.05, 0.08)

    turn = b.uniform(0, 1)
    ribs = [
        ellipse(y, x, (tall - fat - 0.05) * np.sin(a), (wide - fat - 0.05) * np.cos(a), 0.03, 0.05, -a)
        for a in (np.arange(9) + turn + 0.3 * z) * 2 * np.pi / 9
        if np.sin(a) > -0.75
    ]
    spine = (tall - fat) * 0.62
    bone = _several([ellipse(y, x, spine, 0, 0.11, 0.13), ellipse(y, x, spine + 0.16, 0, 0.08, 0.035), *ribs])
    vessel = _several([ellipse(y, x, spine - 0.18, 0.07, 0.05, 0.05), ellipse(y, x, spine - 0.17, -0.09, 0.045, 0.06)])

    loops = [blob(b, y, x, b.uniform(-0.4, 0.3), b.uniform(-0.55, 0.6), b.uniform(0.06, 0.13), 0.2) for _ in range(7)]
    bowel = _several(loops)
    stomach = blob(b, y, x, -0.2 + b.normal(0, 0.04), 0.33 + b.normal(0, 0.06), b.uniform(0.16, 0.26), 0.22)
    stomach = stomach - 0.2 * (1 - _swell(z, 0.3, 1.2))

    spleen_y, spleen_x, spleen_r = b.uniform(-0.02, 0.14), b.uniform(0.5, 0.6), b.uniform(0.19, 0.26)
    spleen = blob(b, y, x, spleen_y, spleen_x, spleen_r, 0.16) - 0.8 * spleen_r * (1 - _swell(z, 0.25, 1.3))
    sides = [(spine - 0.1 + b.normal(0, 0.02), side * b.uniform(0.34, 0.42), b.uniform(0.15, 0.19)) for side in (-1, 1)]
    kidney = _several([blob(b, y, x, ky, kx, r, 0.1) - 0.8 * r * (1 - _swell(z, -0.35, 1.3)) for ky, kx, r in sides])

    liver_r = b.uniform(0.3, 0.46)
    big = _swell(z, 0.35, 1.5)
    lobe = blob(b, y, x, -0.02 + b.normal(0, 0.04), -0.4 + b.normal(0, 0.04), liver_r, 0.16)
    left = blob(b, y, x, -0.25 + b.normal(0, 0.03), -0.08 + b.normal(0, 0.06), 0.6 * liver_r, 0.2)
    liver = _several([lobe - liver_r * (1 - big), left - 0.3 * liver_r * (1 - big) - 0.05 * max(-z, 0)])
    gallbladder = blob(b, y, x, -0.05 + b.normal(0, 0.05), -0.12 + b.normal(0, 0.05), b.uniform(0.05, 0.09), 0.1)
    tree = np.abs(field(b, s.size, 9, 3, 0.5)) * (1 + 0.3 * z)
    veins = np.clip(1 - tree / 0.22, 0, 1) * (liver > 0.05)

    inside = lambda level: np.minimum(level, cavity)  # noqa: E731
    kidney = np.minimum(inside(kidney), -bone)
    spleen = np.minimum(inside(spleen), -kidney - 0.04)  # a layer of fat parts the kidneys from their neighbours
    liver = np.minimum(inside(liver), np.minimum(-gallbladder, np.minimum(-bone, -kidney - 0.04)))

    ill = b.uniform() < s.look.rare
    spots = []
    for _ in range(2):
        spot_z = b.uniform(-0.6, 0.9)
        where, away, r = b.uniform(0, 2 * np.pi), b.uniform(0, 0.62), b.uniform(0.12, 0.2)
        cy, cx = away * liver_r * np.sin(where), -0.4 + away * liver_r * np.cos(where)
        spots.append(blob(b, y, x, cy, cx, r, 0.18) - 0.7 * r * (1 - _swell(z, spot_z, 1.2)))
    lesions = np.minimum(_several(spots) if ill else np.full_like(y, -1), liver - 0.01)

    return Abdomen(
        body, wall, cavity, bone, vessel, inside(bowel), inside(stomach), inside(gallbladder),
        kidney, spleen, liver, lesions, veins,
    )  # fmt: skip
