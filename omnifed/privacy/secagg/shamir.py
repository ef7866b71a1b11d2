"""Shamir's secret sharing (Communications of the ACM, 1979) over the Mersenne prime 2^521 - 1.

The field is twice as wide as the secrets, 256 bits, so that a share tells nothing of them beyond what the scheme
allows, and its arithmetic needs no reduction tricks: Python's own integers are fast enough for thousands of shares.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping

PRIME = 2**521 - 1
SHARE_BYTES = 66


def split(secret: bytes, threshold: int, parties: int) -> list[bytes]:
    """Shares a secret: f(1) .. f(parties) of a random polynomial f of degree ``threshold - 1`` with f(0) = secret.

    Args:
        secret: at most 64 bytes.
        threshold: shares that give it back; fewer tell nothing.
        parties: number of shares.

    Returns:
        Shares of :data:`SHARE_BYTES` bytes, that of party i (from 1) at index i - 1.

    Raises:
        ValueError: for a threshold outside of 1..parties, or a longer secret.
    """
    if not 1 <= threshold <= parties or len(secret) > 64:
        raise ValueError(f"threshold {threshold} of {parties}, {len(secret)} bytes")
    coefficients = [int.from_bytes(secret, "big"), *(secrets.randbelow(PRIME) for _ in range(threshold - 1))]
    return [_value(coefficients, x).to_bytes(SHARE_BYTES, "big") for x in range(1, parties + 1)]


def join(shares: Mapping[int, bytes], size: int) -> bytes:
    """The secret of ``size`` bytes: f(0) by Lagrange's interpolation.

    Args:
        shares: exactly as many as the threshold, by party from 1. More are not wrong, only slower.
        size: of the secret.

    Raises:
        ValueError: if the shares are not of one secret of that size. With false shares this is likely, not certain:
            who shares commits to the secret besides.
    """
    total = 0
    for x, share in shares.items():
        above, below = 1, 1
        for other in shares:
            if other != x:
                above, below = above * other % PRIME, below * (other - x) % PRIME
        total = (total + int.from_bytes(share, "big") * above * pow(below, -1, PRIME)) % PRIME
    try:
        return total.to_bytes(size, "big")
    except OverflowError:
        raise ValueError("the shares are not of one secret") from None


def _value(coefficients: list[int], x: int) -> int:
    value = 0
    for coefficient in reversed(coefficients):
        value = (value * x + coefficient) % PRIME
    return value
