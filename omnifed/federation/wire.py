"""How weights travel: as they are, as bfloat16, or as int8 steps from what the receiver holds.

Kernels and matrices are coded; vectors (biases, norms and their statistics), numbers and integers travel as they are:
they are one part in a hundred, and one rounded variance can ruin a network. Every function is plain element-wise IEEE
arithmetic, so sender and receiver end with the same bits on every machine.

What rounding takes away is not forgotten. The sender adds it to what it sends next (error feedback: Seide et al.,
Interspeech 2014; Karimireddy et al., ICML 2019), so that steps smaller than the grid arrive after some rounds.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from omnifed.errors import OmniFedError

if TYPE_CHECKING:
    # For types alone: the schema of tasks imports this file, and the base install has no safetensors.
    from omnifed.models.slices import SliceMap
    from omnifed.states import State

Wire = Literal["fp32", "bf16", "int8-delta"]
"""``fp32`` 4 bytes a weight; ``bf16`` 2; ``int8-delta`` 1, the change against a state that both ends hold."""
SCALES = "wire/scales"
"""Name of the (n,) float32 steps of the n int8 arrays, in the order of their sorted names."""
CHECK = "wire/check"
"""Name of the (1,) uint32 checksum of the int8 arrays as the receiver must hold them."""
NO_BASE = "OF524"
"""Number of a receiver that does not hold what a change refers to: it needs the whole state."""
LEVELS = 127


@dataclass(frozen=True)
class Sent:
    """A state on its way.

    Attributes:
        arrays: what travels.
        held: what the receiver has after :func:`decode`, bit for bit.
        lost: per coded array, what rounding took away; for the next :func:`encode`.
    """

    arrays: State
    held: State
    lost: State = field(default_factory=dict)


def is_coded(value: np.ndarray) -> bool:
    """Whether an array is worth coding: float32 with two axes or more."""
    return value.dtype == np.float32 and value.ndim > 1


def encode(
    state: Mapping[str, np.ndarray],
    wire: Wire,
    *,
    base: Mapping[str, np.ndarray] | None = None,
    lost: Mapping[str, np.ndarray] | None = None,
) -> Sent:
    """Codes a state for its way.

    Args:
        state: finite arrays of any shapes.
        wire: the coding.
        base: for ``int8-delta``, what the receiver holds; arrays that it lacks travel as they are. None: only zeros.
        lost: of the sender's previous :func:`encode`; arrays of other shapes are ignored.

    Raises:
        OmniFedError: OF505 for NaN, infinity or what overflows, OF523 for a state with the coding's own dtype or with
            another shape than the base.
    """
    if wire == "fp32":
        return Sent(dict(state), dict(state))
    arrays: State = {}
    held: State = {}
    left: State = {}
    scales: dict[str, np.float32] = {}
    for key, value in state.items():
        if value.dtype == _dtype(wire):
            raise _malformed(f"{key} is {value.dtype} before it is coded")
        if not is_coded(value) or (wire == "int8-delta" and base is not None and key not in base):
            arrays[key] = held[key] = _finite(value)
            continue
        target = _finite(_plus(value, (lost or {}).get(key)))
        if wire == "bf16":
            arrays[key] = _to_bf16(target)
            held[key] = _finite(_from_bf16(arrays[key]))
        else:
            origin = np.zeros_like(target) if base is None else base[key]
            if origin.shape != target.shape:
                raise _malformed(f"{key}: {target.shape}, the receiver holds {origin.shape}")
            arrays[key], scales[key] = _steps(target, origin)
            held[key] = _finite(_walk(arrays[key], scales[key], origin))
        left[key] = target - held[key]
    return Sent(_complete(arrays, scales, held), held, left)


def decode(arrays: Mapping[str, np.ndarray], wire: Wire, *, base: Mapping[str, np.ndarray] | None = None) -> State:
    """What :func:`encode` says that the receiver holds.

    Args:
        arrays: what travelled.
        wire: the coding.
        base: as at the sender, the same bits.

    Raises:
        OmniFedError: OF523 if names, dtypes, shapes or steps do not fit the coding and the base, OF505 for NaN or
            infinity, OF524 (:data:`NO_BASE`) if ``base`` is not what the sender took it for.
    """
    if wire == "fp32":
        return dict(arrays)
    state = {key: value for key, value in arrays.items() if key not in (SCALES, CHECK)}
    coded = {key for key, value in state.items() if value.dtype == _dtype(wire)}
    if wire == "bf16":
        wrong = any(is_coded(value) or (key in coded and value.ndim < 2) for key, value in state.items())
        if wrong or len(state) < len(arrays):
            raise _malformed("arrays with two axes or more, and no others, must be bfloat16")
        return {key: _finite(_from_bf16(value) if key in coded else value) for key, value in state.items()}
    scales = _scales(arrays, coded)
    _check_base(state, coded, base)
    held = dict(state)
    for key in coded:
        origin = np.zeros(state[key].shape, np.float32) if base is None else base[key]
        held[key] = _walk(state[key], scales[key], origin)
    _same(arrays.get(CHECK), held, coded)
    return {key: _finite(value) for key, value in held.items()}


def cut(arrays: Mapping[str, np.ndarray], found: SliceMap, held: Mapping[str, np.ndarray]) -> State:
    """The part of int8 steps for a sub-network: what it then holds is the slice of the whole, bit for bit.

    Args:
        arrays: :attr:`Sent.arrays` of the large state.
        found: where the small state lies in the large one (:func:`omnifed.models.slices.slice_map`).
        held: the small state as its receiver will hold it.
    """
    scales = _scales(arrays, {key for key, value in arrays.items() if value.dtype == np.int8})
    small = {key: np.array(arrays[entry.key][entry.index]) for key, entry in found.items() if entry.key in arrays}
    return _complete(small, {key: scales[found[key].key] for key in small if found[key].key in scales}, held)


def no_base(seen: str) -> OmniFedError:
    """The error of a receiver that cannot use a change."""
    return OmniFedError(
        NO_BASE,
        "Who gets a change must hold the weights that it refers to.",
        seen=seen,
        remedy="Nothing if it happens once: the whole weights are sent. Else give the client a lasting state folder.",
    )


def _dtype(wire: Wire) -> type[np.generic]:
    return np.uint16 if wire == "bf16" else np.int8


def _plus(value: np.ndarray, lost: np.ndarray | None) -> np.ndarray:
    return value if lost is None or lost.shape != value.shape else value + lost.astype(np.float32, copy=False)


def _finite(value: np.ndarray) -> np.ndarray:
    if value.dtype.kind == "f" and not np.isfinite(value).all():
        raise OmniFedError(
            "OF505",
            "Figures and weights that leave a site must be finite numbers.",
            remedy="Look at the site's loss; lower the learning rate or check its images.",
        )
    return value


def _to_bf16(value: np.ndarray) -> np.ndarray:
    """The upper half of each float32, rounded to the nearest, ties to even."""
    bits = np.ascontiguousarray(value).view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype(np.uint16)


def _from_bf16(value: np.ndarray) -> np.ndarray:
    return (value.astype(np.uint32) << np.uint32(16)).view(np.float32)


def _steps(target: np.ndarray, origin: np.ndarray) -> tuple[np.ndarray, np.float32]:
    """Whole steps from ``origin`` to ``target``, and the size of one."""
    with np.errstate(over="ignore"):
        change = _finite(target - origin)
    scale = np.float32(np.abs(change).max(initial=0) / np.float32(LEVELS))
    if scale == 0:  # nothing changed, or by less than a float32 can divide
        return np.zeros(target.shape, np.int8), np.float32(0)
    return np.clip(np.rint(change / scale), -LEVELS, LEVELS).astype(np.int8), scale


def _walk(steps: np.ndarray, scale: np.float32, origin: np.ndarray) -> np.ndarray:
    # DANGER: product and sum must stay two float32 operations; a fused one gives other bits on some machines.
    with np.errstate(over="ignore", invalid="ignore"):
        return origin + steps.astype(np.float32) * scale


def _complete(arrays: State, scales: Mapping[str, np.float32], held: Mapping[str, np.ndarray]) -> State:
    if not scales:
        return arrays
    # Sorted, as a state that was on disk meanwhile comes back in another order.
    steps = np.array([scales[key] for key in sorted(scales)], np.float32)
    return arrays | {SCALES: steps, CHECK: np.array([_checksum(held, scales)], np.uint32)}


def _checksum(held: Mapping[str, np.ndarray], coded: Iterable[str]) -> int:
    value = 0
    for key in sorted(coded):
        value = zlib.crc32(np.ascontiguousarray(held[key], "<f4").data, value)
    return value


def _same(check: np.ndarray | None, held: Mapping[str, np.ndarray], coded: set[str]) -> None:
    if not coded and check is None:
        return
    if check is None or check.dtype != np.uint32 or check.shape != (1,):
        raise _malformed("no checksum")
    if int(check[0]) != _checksum(held, coded):
        raise no_base("other weights than the sender took for given")


def _scales(arrays: Mapping[str, np.ndarray], coded: set[str]) -> dict[str, np.float32]:
    values = arrays.get(SCALES, np.zeros(0, np.float32))
    fits = values.dtype == np.float32 and values.shape == (len(coded),)
    if not (fits and np.isfinite(values).all() and (values >= 0).all()):
        raise _malformed(f"{values.dtype} {values.shape} steps for {len(coded)} arrays")
    return dict(zip(sorted(coded), values, strict=True))


def _check_base(state: State, coded: set[str], base: Mapping[str, np.ndarray] | None) -> None:
    if base is None:
        wrong = {key for key, value in state.items() if is_coded(value)} | {k for k in coded if state[k].ndim < 2}
    else:
        expected = {key for key, value in base.items() if is_coded(value)}
        wrong = (expected ^ coded) | (base.keys() - state.keys())
        wrong |= {key for key in expected & coded if state[key].shape != base[key].shape}
    if wrong:
        raise _malformed(f"{len(wrong)} arrays that do not fit what the change refers to, first {min(wrong)}")


def _malformed(seen: str) -> OmniFedError:
    return OmniFedError(
        "OF523",
        "Coded weights must have the names, dtypes, shapes and steps of their coding.",
        seen=seen,
        remedy="Install the same omnifed release at the coordinator and at the sites.",
    )
