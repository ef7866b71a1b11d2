"""Damage as attackers and bad disks make it, a pure function of (seed, number)."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable

import numpy as np

_ELEMENT = re.compile(rb"..(..)(?:AE|AS|AT|CS|DA|DS|DT|FD|FL|IS|LO|LT|OB|OW|PN|SH|SQ|SS|ST|TM|UI|UL|UN|US|UT)", re.S)
_EXTREME = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
Change = Callable[[bytearray, np.random.Generator], None]


def mutated(data: bytes, suffix: str, seed: tuple[int, ...]) -> bytes:
    """A damaged copy; of a packed file every other time what is inside is damaged."""
    rng = np.random.default_rng(seed)
    inside = suffix == ".nii.gz" and rng.random() < 0.5
    raw = bytearray(gzip.decompress(data) if inside else data)
    # Every other time lengths and tags stay what they are, so that the damage comes as far as a decoder.
    changes = (_flip, _extreme) if rng.random() < 0.5 else _CHANGES
    for _ in range(int(rng.integers(1, 4))):
        changes[int(rng.integers(len(changes)))](raw, rng)
    return gzip.compress(bytes(raw), 1, mtime=0) if inside else bytes(raw)


def _at(raw: bytearray, rng: np.random.Generator) -> int:
    """Half of all damage meets the headers at the beginning."""
    end = max(1, len(raw))
    return int(rng.integers(min(end, 1200) if rng.random() < 0.5 else end))


def _flip(raw: bytearray, rng: np.random.Generator) -> None:
    for _ in range(int(rng.integers(1, 17))):
        if raw:
            raw[_at(raw, rng)] ^= 1 << int(rng.integers(8))


def _insert(raw: bytearray, rng: np.random.Generator) -> None:
    at = _at(raw, rng)
    raw[at:at] = rng.bytes(int(rng.integers(1, 64)))


def _delete(raw: bytearray, rng: np.random.Generator) -> None:
    at = _at(raw, rng)
    del raw[at : at + int(rng.integers(1, 64))]


def _cut(raw: bytearray, rng: np.random.Generator) -> None:
    del raw[int(rng.integers(len(raw) + 1)) :]


def _extreme(raw: bytearray, rng: np.random.Generator) -> None:
    size, order = int(rng.choice([1, 2, 4])), str(rng.choice(["little", "big"]))
    at, value = _at(raw, rng), int(rng.choice(_EXTREME)) & (256**size - 1)
    raw[at : at + size] = value.to_bytes(size, order)  # type: ignore[arg-type]


def _length(raw: bytearray, rng: np.random.Generator) -> None:
    """Writes another length into a DICOM element; elsewhere an extreme number somewhere."""
    found = list(_ELEMENT.finditer(raw))
    if not found:
        return _extreme(raw, rng)
    end = found[int(rng.integers(len(found)))].end()
    size = 2 if rng.random() < 0.7 else 6
    value = int(rng.choice(_EXTREME)) & (256 ** min(size, 4) - 1)
    raw[end : end + size] = value.to_bytes(min(size, 4), "little").rjust(size, b"\0")
    return None


def _swap(raw: bytearray, rng: np.random.Generator) -> None:
    """Puts two DICOM elements, or any two pieces, in each other's place."""
    found = [match.start() for match in _ELEMENT.finditer(raw)] or list(range(0, len(raw), 16))
    if len(found) < 4:
        return
    a, b = sorted(int(k) for k in rng.choice(len(found) - 1, 2, replace=False))
    start, middle, other, end = found[a], found[a + 1], found[b], found[b + 1]
    raw[start:end] = raw[other:end] + raw[middle:other] + raw[start:middle]


def _repeat(raw: bytearray, rng: np.random.Generator) -> None:
    at = _at(raw, rng)
    raw[at:at] = raw[at : at + int(rng.integers(1, 256))] * int(rng.integers(1, 20))


def _retag(raw: bytearray, rng: np.random.Generator) -> None:
    """Gives an element another type."""
    found = list(_ELEMENT.finditer(raw))
    if found:
        end = found[int(rng.integers(len(found)))].end()
        raw[end - 2 : end] = bytes(found[int(rng.integers(len(found)))].group(0)[-2:])


_CHANGES: tuple[Change, ...] = (
    _flip,
    _flip,
    _insert,
    _delete,
    _cut,
    _extreme,
    _extreme,
    _length,
    _length,
    _swap,
    _repeat,
    _retag,
)
