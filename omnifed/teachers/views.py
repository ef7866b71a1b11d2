"""Deterministic geometric views of a case, exact on every grid: the same for image, label and maps."""

from __future__ import annotations

import hashlib

import numpy as np
from torch import Tensor

SQUARE = tuple((turns, flip) for turns in range(4) for flip in (False, True))
"""The eight symmetries of a square: quarter turns, then a horizontal flip or none; the first is the identity."""
OBLONG = ((0, False), (0, True), (2, False), (2, True))
"""The four symmetries of a rectangle."""


def symmetry(key: str, view: int, *, square: bool) -> tuple[int, bool]:
    """Which symmetry a view of a case is: quarter turns and whether it is then flipped.

    View 0 is the identity. The others run through a permutation of the remaining symmetries that is drawn from the key,
    so that views of one case differ as long as there are symmetries left (7, or 3 where not square).
    """
    group = SQUARE if square else OBLONG
    if view == 0:
        return group[0]
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little")
    order = np.random.default_rng(seed).permutation(len(group) - 1)
    return group[1 + int(order[(view - 1) % len(order)])]


def apply_symmetry(tensor: Tensor, turns: int, flip: bool) -> Tensor:
    """Turns (..., H, W) by ``turns`` quarters counter-clockwise, then flips it left to right."""
    turned = tensor.rot90(turns, (-2, -1)) if turns else tensor
    return turned.flip(-1) if flip else turned


def undo_symmetry(tensor: Tensor, turns: int, flip: bool) -> Tensor:
    """The inverse of :func:`apply_symmetry`."""
    flipped = tensor.flip(-1) if flip else tensor
    return flipped.rot90(-turns, (-2, -1)) if turns else flipped


def apply_view(tensor: Tensor, key: str, view: int) -> Tensor:
    """One view of an image or a label.

    Args:
        tensor: (..., H, W) of one case at the image's size (whether H = W decides which symmetries there are).
        key: the case's content hash.
        view: 0 is the identity; others are drawn from (key, view).

    Returns:
        The same pixels in another order, same shape.
    """
    return apply_symmetry(tensor, *symmetry(key, view, square=tensor.shape[-1] == tensor.shape[-2]))
