"""The six phantoms by name, and endless streams of them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from omnifed_sim.phantoms import abdominal_ct, abdominal_mri, brain_mri, dermoscopy, intraop, retinal_oct
from omnifed_sim.phantoms.base import Pair, Phantom
from omnifed_sim.phantoms.look import random_look

PHANTOMS: dict[str, Phantom] = {
    module.PHANTOM.name: module.PHANTOM
    for module in (dermoscopy, abdominal_ct, abdominal_mri, retinal_oct, intraop, brain_mri)
}
"""Phantoms by name; a new one is one file and its place in this line."""

_ENDLESS = 7_340_033
"""Sets the seeds of streams apart from those of preset sites: what a teacher saw is never in a test set."""


def endless(modality: str, seed: int, size: int) -> Iterator[Pair]:
    """Yields image and mask for ever, each from a new patient on a new scanner.

    Args:
        modality: a key of :data:`PHANTOMS`.
        seed: of the stream; never meets the patients of a preset, whatever their seeds.
        size: height and width in pixels.

    Returns:
        Iterator over (image, mask), image in native units.
    """
    phantom = PHANTOMS[modality]
    number = 0
    while True:
        rng = np.random.default_rng([_ENDLESS, seed, number])
        yield phantom.draw(rng, size, random_look(rng))
        number += 1
