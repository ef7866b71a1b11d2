"""Deterministic geometric views of a case, exact on every grid: the same for image, label and maps.

Only mirrorings: those that the augmentation of the teacher's own fit knows. A teacher that never saw a quarter turn has
nothing to teach about one.
"""

from __future__ import annotations

import hashlib

import numpy as np
from torch import Tensor

Mirror = tuple[int, ...]
"""Axes that are mirrored: -1 left to right, -2 top to bottom."""


def mirrorings(*, upright: bool) -> tuple[Mirror, ...]:
    """The identity, then the other mirrorings: one for images that have an up and a down, three for all others.

    Args:
        upright: whether the modality is in :data:`omnifed.data.augment.UPRIGHT`.
    """
    return ((), (-1,)) if upright else ((), (-1,), (-2,), (-2, -1))


def mirror(key: str, view: int, *, upright: bool) -> Mirror:
    """Which mirroring a view of a case is.

    View 0 is the identity. The others run through a permutation of the remaining mirrorings that is drawn from the key,
    so that views of one case differ as long as there are any left (3, or 1 where upright).
    """
    group = mirrorings(upright=upright)
    if view == 0:
        return group[0]
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little")
    order = np.random.default_rng(seed).permutation(len(group) - 1)
    return group[1 + int(order[(view - 1) % len(order)])]


def apply_view(tensor: Tensor, key: str, view: int, *, upright: bool = False) -> Tensor:
    """One view of an image, a label or a map.

    Args:
        tensor: (..., H, W) of one case.
        key: the case's content hash.
        view: 0 is the identity; others are drawn from (key, view).
        upright: whether the modality has an up and a down.

    Returns:
        The same pixels mirrored, same shape. Applied twice it is the identity.
    """
    axes = mirror(key, view, upright=upright)
    return tensor.flip(axes) if axes else tensor
