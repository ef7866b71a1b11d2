"""Smooth random fields, warped coordinates and soft shapes: what all phantoms are drawn with.

A shape is a level map: positive inside, about the distance to the edge in units of half the image's width. The number
of random draws never depends on the size, so that one seed is one anatomy at any resolution.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.floating[Any]]
"""Map of float32, shape (H, W) or (H, W, 3)."""


@lru_cache(maxsize=16)
def grid(size: int) -> tuple[Array, Array]:
    """Coordinates (y, x), each (size, size), -1..1 from edge to edge; read-only."""
    line = ((np.arange(size, dtype=np.float32) + 0.5) / size * 2 - 1).astype(np.float32)
    y, x = np.meshgrid(line, line, indexing="ij")
    y.setflags(write=False)
    x.setflags(write=False)
    return y, x


@lru_cache(maxsize=64)
def _waves(size: int, count: int) -> Array:
    """Cosine basis (size, count): column k has k half-waves over the image."""
    place = (np.arange(size) + 0.5) / size
    return np.cos(np.pi * place[:, None] * np.arange(count)).astype(np.float32)


@lru_cache(maxsize=64)
def _spectrum(high: int, low: int, slope: float) -> Array:
    """Amplitudes (high + 1, high + 1) of a field with unit variance and waves between ``low`` and ``high``."""
    k = np.hypot(*np.meshgrid(np.arange(high + 1), np.arange(high + 1), indexing="ij"))
    amplitude = np.where((k >= max(low, 1)) & (k <= high), 1.0 / np.maximum(k, 1) ** slope, 0.0)
    axis = np.where(np.arange(high + 1) == 0, 1.0, 0.5)
    power = (amplitude**2 * np.outer(axis, axis)).sum()
    return (amplitude / np.sqrt(power)).astype(np.float32)


def field(rng: np.random.Generator, size: int, high: int, low: int = 1, slope: float = 1.0) -> Array:
    """Random smooth field: sum of cosines of ``low``..``high`` half-waves with Gaussian amplitudes.

    Args:
        rng: draws (high + 1)^2 normal numbers, whatever the size.
        size: H and W.
        high: most half-waves over the image; waves finer than the pixels are left out.
        low: fewest half-waves.
        slope: amplitude falls as ``1 / k**slope``.

    Returns:
        (size, size) with mean about 0 and deviation about 1.
    """
    weights = rng.standard_normal((high + 1, high + 1), np.float32) * _spectrum(high, low, slope)
    used = min(high + 1, size)
    basis = _waves(size, used)
    return basis @ weights[:used, :used] @ basis.T


def line_field(rng: np.random.Generator, size: int, high: int, slope: float = 1.0) -> Array:
    """Random smooth curve (size,), deviation about 1, up to ``high`` half-waves."""
    amplitude = 1.0 / np.arange(1, high + 1) ** slope
    amplitude /= np.sqrt((amplitude**2).sum() / 2)
    weights = (rng.standard_normal(high) * amplitude).astype(np.float32)
    return _waves(size, high + 1)[:, 1:] @ weights


def warp(rng: np.random.Generator, size: int, amount: float, z: float = 0.0, high: int = 4) -> tuple[Array, Array]:
    """Smoothly deformed coordinates (y, x); ``z`` moves along a patient's slices without a jump."""
    y, x = grid(size)
    fields = [field(rng, size, high) for _ in range(4)]
    return y + amount * (fields[0] + 0.4 * z * fields[1]), x + amount * (fields[2] + 0.4 * z * fields[3])


def place(rng: np.random.Generator, reach: float) -> tuple[float, float]:
    """A random point (y, x), each within ``-reach..reach``."""
    return float(rng.uniform(-reach, reach)), float(rng.uniform(-reach, reach))


def ellipse(y: Array, x: Array, cy: float, cx: float, ry: float, rx: float, angle: float = 0.0) -> Array:
    """Level of an ellipse with half-axes ``ry``, ``rx``, turned by ``angle`` (radians)."""
    dy, dx = y - np.float32(cy), x - np.float32(cx)
    if angle:
        c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
        dy, dx = c * dy - s * dx, s * dy + c * dx
    radius = np.sqrt((dy / np.float32(ry)) ** 2 + (dx / np.float32(rx)) ** 2)
    return (1 - radius) * np.float32(min(ry, rx))


def blob(
    rng: np.random.Generator, y: Array, x: Array, cy: float, cx: float, radius: float, rough: float = 0.15
) -> Array:
    """Level of a star-shaped blob whose radius swings by ``rough`` with the angle (six harmonics)."""
    dy, dx = y - np.float32(cy), x - np.float32(cx)
    distance = np.sqrt(dy * dy + dx * dx) + np.float32(1e-6)
    unit = (dx + np.complex64(1j) * dy) / distance  # exp(i angle)
    phases = np.exp(1j * rng.uniform(0, 2 * np.pi, 6)) * rng.normal(size=6) / np.arange(1, 7)
    swing = np.zeros_like(unit)
    for weight in phases[::-1].astype(np.complex64):  # Horner: sum of weight_k exp(i k angle)
        swing = (swing + weight) * unit
    return np.float32(radius) * (1 + np.float32(rough) * swing.real) - distance


def stroke(y: Array, x: Array, cy: float, cx: float, angle: float, bend: float, width: float) -> Array:
    """Level of an endless curved line of half-width ``width`` (hair, shadow, shaft)."""
    c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    dy, dx = y - np.float32(cy), x - np.float32(cx)
    along, across = c * dx + s * dy, c * dy - s * dx
    return np.float32(width) - np.abs(across - np.float32(bend) * along**2)


def soft(level: Array, edge: float) -> Array:
    """Coverage 0..1: half at the edge, full ``edge`` inside."""
    return np.clip(level / np.float32(2 * edge) + np.float32(0.5), 0, 1)


def lay(image: Array, level: Array, value: ArrayLike, edge: float = 0.015, strength: float = 1.0) -> None:
    """Paints ``value`` over ``image`` in place where ``level`` is positive, with a soft edge.

    Args:
        image: (H, W) or (H, W, 3).
        level: (H, W).
        value: scalar, map of the image's shape or colour (3,).
        edge: half-width of the transition, in half image widths.
        strength: opacity 0..1.
    """
    cover = soft(level, edge) * np.float32(strength)
    if image.ndim == 3:
        cover = cover[..., None]
    image += (np.asarray(value, np.float32) - image) * cover
