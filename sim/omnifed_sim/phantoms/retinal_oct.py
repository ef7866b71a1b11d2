"""Retinal OCT layers: speckle, a foveal pit, vessel shadows; bright and dark layers repeat, only their order tells."""

from __future__ import annotations

import numpy as np

from omnifed.data.site import Normalisation
from omnifed_sim.phantoms.base import Pair, Phantom, Scene
from omnifed_sim.phantoms.look import acquire
from omnifed_sim.phantoms.shapes import field, grid, line_field, soft


def _paint(s: Scene) -> Pair:
    b, shot, z = s.body, s.shot, s.z
    y, x0 = grid(s.size)
    x = x0[0]
    top = b.uniform(-0.45, 0.0) + b.normal(0, 0.12) * x + b.uniform(0.0, 0.3) * x**2
    top = top + 0.03 * (line_field(b, s.size, 5) + 0.4 * z * line_field(b, s.size, 5))
    pit_at, pit_width = b.uniform(-0.5, 0.5), b.uniform(0.14, 0.28)
    pit = b.uniform(0.3, 0.95) * np.exp(-((z / 0.7) ** 2)) * np.exp(-(((x - pit_at) / pit_width) ** 2))
    # thickness of nerve fibres, inner layers, outer nuclear layer, photoreceptors and pigment epithelium
    mean = np.array([0.10, 0.19, 0.16, 0.11]) * b.uniform(0.85, 1.25, 4)
    thick = [m * (1 + 0.16 * line_field(b, s.size, 6, 0.7)) for m in mean]
    thick[0] = thick[0] * (1 - 0.8 * pit) * (1 + 0.5 * b.uniform(-1, 1) * x)
    thick[1] = thick[1] * (1 - 0.75 * pit)
    thick[2] = thick[2] * (1 + 0.3 * pit)
    for _ in range(3):  # drusen lift the pigment epithelium
        bump = b.uniform(0, 0.06) * (b.uniform() < 0.4 * s.look.distractors)
        thick[3] = thick[3] + bump * np.exp(-(((x - b.uniform(-1, 1)) / b.uniform(0.04, 0.1)) ** 2))
    edges = top + 0.5 * mean[0] * pit + np.cumsum([np.zeros_like(x), *(np.maximum(t, 0.02) for t in thick)], axis=0)
    edges = np.asarray(edges, np.float32)

    bright = np.array([0.10, 0.58, 0.44, 0.27, 0.62, 0.46]) + b.normal(0, 0.03, 6)
    image = np.full((s.size, s.size), bright[0], np.float32)
    mask = np.zeros((s.size, s.size), np.uint8)
    for label, edge in enumerate(edges, start=1):
        image += (bright[label] - image) * soft(y - edge, 0.02)
        mask[y >= edge] = label
    mask[mask == len(edges)] = 0
    depth = y - edges[-1]
    image *= np.where(depth > 0, np.exp(-depth * b.uniform(1.5, 3.5)) * (1 + 0.25 * field(b, s.size, 22, 6, 0.4)), 1)
    inner = (y - edges[1]) / (edges[2] - edges[1])  # plexiform and nuclear bands inside of the inner layers
    image -= 0.16 * np.exp(-(((inner - 0.62) / 0.13) ** 2)) + 0.05 * np.exp(-(((inner - 0.2) / 0.15) ** 2))
    outer = (y - edges[2]) / (edges[3] - edges[2])
    image += 0.16 * np.exp(-(((outer - 0.85) / 0.05) ** 2))
    ends = (y - edges[3]) / (edges[4] - edges[3])
    image -= 0.22 * np.exp(-(((ends - 0.45) / 0.14) ** 2))

    many = s.look.distractors
    for _ in range(b.poisson(2.5 * many)):  # vessels throw shadows on all that lies below
        at, width = b.uniform(-1, 1) + 0.1 * z, b.uniform(0.015, 0.05)
        image *= 1 - b.uniform(0.3, 0.65) * np.exp(-(((x - at) / width) ** 2)) * (y > edges[0] + 0.06)
    haze = np.clip(field(b, s.size, 7, 2), 0, 2) * (y < edges[0] - 0.03)
    image += 0.10 * many * haze
    image *= 1 - 0.3 * np.clip(line_field(shot, s.size, 4), -1, 1)
    speckle = shot.gamma(3.2 / s.look.noise if s.look.noise else 1e3, size=image.shape)
    speckle /= 3.2 / s.look.noise if s.look.noise else 1e3
    image = np.sqrt(np.maximum(image, 0.01)) * speckle.astype(np.float32) ** 0.5
    return np.clip(acquire(image, shot, s.look, noise=0.03), 0, 1) * 255, mask


PHANTOM = Phantom(
    name="retinal_oct",
    modality="oct",
    labels={0: "background", 1: "nerve-fibres", 2: "inner-layers", 3: "outer-nuclear", 4: "photoreceptors-rpe"},
    channels=1,
    normalisation=Normalisation(kind="minmax", percentiles=(0.5, 99.5)),
    native="png",
    rare=(),
    paint=_paint,
)
