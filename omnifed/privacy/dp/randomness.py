"""Random draws that nobody outside the site can foresee: a coordinator knows the seed of everything else."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from torch import Tensor

KEY_BYTES = 32
"""Of the key of one release."""

Purpose = Literal["sample", "noise"]
_PURPOSES: dict[Purpose, int] = {"sample": 1, "noise": 2}


class SecretDraws:
    """Draws from AES-256 in counter mode: a pure function of (key, purpose, step), so that a resumed fit repeats them.

    Args:
        key: 32 random bytes of the operating system, secret, for one release alone.

    Raises:
        ValueError: for a key of another size.
    """

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"a key has {KEY_BYTES} bytes")
        self._key = algorithms.AES(key)

    def uniform(self, purpose: Purpose, step: int, count: int) -> np.ndarray:
        """(count,) float64 in the open interval 0..1, each (k + 1/2) / 2^52 for k of 52 random bits."""
        # The upper half of the counter block tells purposes and steps apart; the lower one counts the blocks.
        start = (_PURPOSES[purpose] << 48 | step).to_bytes(8, "big") + bytes(8)
        stream = Cipher(self._key, modes.CTR(start)).encryptor().update(bytes(8 * count))
        return ((np.frombuffer(stream, "<u8") >> np.uint64(12)) + 0.5) * 2.0**-52

    def normal(self, step: int, count: int) -> Tensor:
        """(count,) float64 standard normal draws, by the inverse of the distribution function; none beyond 8.2."""
        return torch.special.ndtri(torch.from_numpy(self.uniform("noise", step, count)))
