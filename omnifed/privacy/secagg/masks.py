"""Masks: the AES-256-CTR keystream (NIST SP 800-38A) of a seed of 256 bits, read as numbers modulo 2^32."""

from __future__ import annotations

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

SEED_BYTES = 32
_BLOCK = 1 << 16
"""Numbers a step: what is added stays in the processor's cache."""


def add_mask(vector: np.ndarray, seed: bytes) -> None:
    """Adds the mask of ``seed`` to ``vector``, in place.

    Args:
        vector: (n,) uint32; sums wrap modulo 2^32.
        seed: :data:`SEED_BYTES` bytes, used for this one mask alone: the counter begins at 0.
    """
    _each(vector, seed, np.add)


def take_mask(vector: np.ndarray, seed: bytes) -> None:
    """Subtracts the mask of ``seed`` from ``vector``, in place; see :func:`add_mask`."""
    _each(vector, seed, np.subtract)


def _each(vector: np.ndarray, seed: bytes, into: np.ufunc) -> None:
    if len(seed) != SEED_BYTES or vector.dtype != np.uint32:
        raise ValueError(f"a seed of {len(seed)} bytes for {vector.dtype}")
    stream = Cipher(AES(seed), CTR(bytes(16))).encryptor()
    zeros = bytes(4 * _BLOCK)
    for start in range(0, len(vector), _BLOCK):
        part = vector[start : start + _BLOCK]
        into(part, np.frombuffer(stream.update(zeros[: 4 * len(part)]), "<u4"), out=part)
