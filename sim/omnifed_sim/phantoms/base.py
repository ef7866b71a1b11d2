"""What a phantom is: a painter of one modality with its labels and native form."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from omnifed.data.site import Modality, Normalisation
from omnifed_sim.phantoms.look import Look
from omnifed_sim.phantoms.shapes import Array

Pair = tuple[Array, NDArray[np.uint8]]
"""(image, mask): image (H, W) or (H, W, 3) float32 in native units, mask (H, W) uint8 label ids."""
Slices = Sequence[tuple[Array, NDArray[np.uint8] | None]]
"""A patient's slices in order of position; the mask is None where nobody drew one."""


@dataclass(frozen=True)
class Scene:
    """One slice to paint.

    Attributes:
        body: draws the anatomy; seeded alike for all slices of a patient.
        shot: draws what differs from slice to slice (noise, hair, highlights).
        z: place of the slice in the patient, -1..1; anatomy changes smoothly with it.
        size: height and width in pixels.
        look: the scanner.
    """

    body: np.random.Generator
    shot: np.random.Generator
    z: float
    size: int
    look: Look


@dataclass(frozen=True)
class Phantom:
    """A generator of one modality.

    Attributes:
        name: key in ``PHANTOMS``.
        modality: the word of the site contract.
        labels: label id to name, 0 the background.
        channels: 1 or 3.
        normalisation: what ``site.toml`` shall say for such images.
        native: the files that a hospital would hold.
        rare: label ids that :attr:`Look.rare` thins out.
        paint: draws one slice.
    """

    name: str
    modality: Modality
    labels: Mapping[int, str]
    channels: Literal[1, 3]
    normalisation: Normalisation
    native: Literal["jpeg", "png", "dicom", "nifti"]
    rare: tuple[int, ...]
    paint: Callable[[Scene], Pair]

    def draw(self, rng: np.random.Generator, size: int, look: Look) -> Pair:
        """Draws one image of a new patient.

        Args:
            rng: source of the seeds.
            size: height and width in pixels.
            look: the scanner.

        Returns:
            Image in native units (HU for CT, 0..255 for RGB and OCT, 0..1000 or so for MR) and mask.
        """
        return self.patient(int(rng.integers(2**62)), 1, size, look)[0]

    def patient(self, seed: int, slices: int, size: int, look: Look) -> list[Pair]:
        """Draws ``slices`` neighbouring slices of one patient; same arguments, same bits."""
        start = np.random.default_rng([seed, 1]).uniform(-0.9, 0.5)
        pairs = []
        for number in range(slices):
            scene = Scene(
                np.random.default_rng([seed, 0]),
                np.random.default_rng([seed, 2, number]),
                start + 0.4 * number / max(slices - 1, 1),
                size,
                look,
            )
            image, mask = self.paint(scene)
            pairs.append((np.asarray(image, np.float32), mask))
        return pairs
