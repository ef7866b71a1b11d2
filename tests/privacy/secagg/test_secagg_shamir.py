from __future__ import annotations

import secrets

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omnifed.privacy.secagg.masks import add_mask, take_mask
from omnifed.privacy.secagg.shamir import PRIME, SHARE_BYTES, join, split


@settings(max_examples=60, deadline=None)
@given(st.binary(min_size=32, max_size=32), st.integers(1, 8), st.integers(0, 8), st.randoms())
def test_any_threshold_of_them_gives_the_secret_back(secret, threshold, more, random) -> None:
    shares = dict(enumerate(split(secret, threshold, threshold + more), 1))
    assert {len(share) for share in shares.values()} == {SHARE_BYTES}
    some = random.sample(sorted(shares), threshold)
    assert join({x: shares[x] for x in some}, 32) == secret


def test_by_hand() -> None:
    """f(x) = 5 + 3 x over the field: f(1) = 8, f(2) = 11; f(0) = 2 * 8 - 11."""
    shares = {x: (5 + 3 * x).to_bytes(SHARE_BYTES, "big") for x in (1, 2)}
    assert join(shares, 1) == b"\x05"
    assert PRIME == 2**521 - 1
    assert pow(3, PRIME - 1, PRIME) == 1


def test_fewer_give_another_value() -> None:
    secret = secrets.token_bytes(32)
    shares = dict(enumerate(split(secret, 4, 6), 1))
    with pytest.raises(ValueError, match="not of one secret"):
        join({x: shares[x] for x in (1, 2, 3)}, 32)
    with pytest.raises(ValueError, match="threshold 7"):
        split(secret, 7, 6)


def test_a_mask_is_the_keystream_of_its_standard() -> None:
    """AES-256 of the zero block under the zero key (FIPS 197 implementations agree on dc95c078...)."""
    vector = np.zeros(4, np.uint32)
    add_mask(vector, bytes(32))
    assert vector.astype("<u4").tobytes().hex() == "dc95c078a2408989ad48a21492842087"


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 200_000), st.binary(min_size=32, max_size=32))
def test_what_is_added_can_be_taken(size, seed) -> None:
    vector = np.arange(size, dtype=np.uint32)
    add_mask(vector, seed)
    take_mask(vector, seed)
    np.testing.assert_array_equal(vector, np.arange(size, dtype=np.uint32))


def test_short_seeds_are_refused() -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        add_mask(np.zeros(4, np.uint32), bytes(16))
