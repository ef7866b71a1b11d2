"""The presets: which phantom sites there are, how large, and with which scanner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from omnifed_sim.phantoms.look import Look

Preset = Literal["modalities", "hospitals"]


@dataclass(frozen=True)
class Plan:
    """One phantom site at scale 1.

    Attributes:
        name: registered name and folder.
        phantom: key of ``PHANTOMS``.
        look: the site's scanner; its ``rare`` is how often the training patients have the rare label.
        train, unlabelled: slices with and without a mask that train.
        val, test: slices of the other two splits; there the rare label is as common as anywhere, so that a method
            is judged on all labels.
        resolution: native pixels a pixel of the network's input.
    """

    name: str
    phantom: str
    look: Look
    train: int = 32
    unlabelled: int = 24
    val: int = 8
    test: int = 24
    resolution: float = 1.0


RARE_WHEN_JUDGED = 0.6

PRESETS: dict[Preset, tuple[Plan, ...]] = {
    "modalities": (
        Plan("dermoscopy", "dermoscopy", Look(tint=(1.03, 1.0, 0.97)), resolution=1.5),
        Plan("abdominal_ct", "abdominal_ct", Look(noise=1.5, phase=0.25)),
        Plan("abdominal_mri", "abdominal_mri", Look(bias=0.2, phase=0.15)),
        Plan("retinal_oct", "retinal_oct", Look(bias=0.05, blur=0.3)),
        Plan("intraop", "intraop", Look(blur=0.4, bias=0.1), resolution=1.25),
        Plan("brain_mri", "brain_mri", Look(noise=0.9, bias=0.2)),
    ),
    # One modality and one table of labels; what differs is what differs between hospitals. The large one sees the
    # rare lesion often, the second seldom, the smallest never.
    "hospitals": (
        Plan("north", "abdominal_mri", Look(noise=0.8, blur=0.4, bias=0.1, phase=0.10, rare=0.6), 40, 20),
        Plan(
            "east", "abdominal_mri",
            Look(contrast=1.2, gamma=0.8, noise=1.1, blur=0.6, bias=0.35, phase=0.22, rare=0.15), 20, 30,
            resolution=1.25,
        ),
        Plan(
            "south", "abdominal_mri",
            Look(contrast=0.8, gamma=1.2, noise=1.9, blur=0.9, bias=0.2, phase=0.05, rare=0.35), 10, 30,
            resolution=0.75,
        ),
        Plan(
            "west", "abdominal_mri",
            Look(contrast=0.9, gamma=1.35, noise=1.3, blur=0.5, bias=0.25, phase=0.28, rare=0.0), 4, 36,
        ),
    ),
}  # fmt: skip
"""Sites by preset: six unlike modalities (the paper's setting), four hospitals of one modality (the everyday one)."""
