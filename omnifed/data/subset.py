"""A part of a split by patient, for brief trainings."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np

from omnifed.data.prepared import Prepared


def subset(prepared: Prepared, fraction: float, seed: int) -> Prepared:
    """All slices of a share of the patients.

    Patients are ordered by the hash of (seed, patient): a permutation that does not move when another patient comes or
    goes, so that a larger fraction holds all patients of a smaller one. Of n patients with a mask the first
    max(1, round(fraction n)) are taken, of those without any the same share (at least one where nobody has a mask).

    The arrays are copies in memory: their rows lie apart on disk, and a training draws each of a small part again and
    again. The whole is never copied: at 1 it is given back as it is.

    Args:
        prepared: the split.
        fraction: 0..1, more than 0.
        seed: of the order.

    Returns:
        The slices in their order in ``prepared``; ``present`` stays the site's.
    """
    if fraction >= 1:
        return prepared
    labelled = {patient for patient, mask in zip(prepared.patients, prepared.has_mask, strict=True) if mask}
    rest = set(prepared.patients) - labelled
    chosen = _first(labelled, fraction, seed, least=1) | _first(rest, fraction, seed, least=0 if labelled else 1)
    rows = np.array([i for i, patient in enumerate(prepared.patients) if patient in chosen], np.int64)
    return replace(
        prepared,
        images=prepared.images[rows],
        masks=prepared.masks[rows],
        has_mask=prepared.has_mask[rows],
        patients=tuple(prepared.patients[i] for i in rows),
        ids=tuple(prepared.ids[i] for i in rows),
        keys=tuple(prepared.keys[i] for i in rows),
        spacing=prepared.spacing[rows],
    )


def _first(patients: set[str], fraction: float, seed: int, *, least: int) -> set[str]:
    order = sorted(patients, key=lambda name: hashlib.sha256(f"{seed}\0{name}".encode()).digest())
    return set(order[: max(least, round(fraction * len(order)))])
