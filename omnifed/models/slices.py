"""Sub-networks: a smaller (alpha, beta) network is a set of leading indices of a larger one. Needs no torch.

Channels are leading, by segment where two maps are concatenated and by group in the group convolution; encoder blocks
are the first ones of their stage; in the decoder the last block goes to the last one, as it changes the width. So a
server can keep one large network, send each site the slice that its device can train, and average every weight over the
sites that hold it (HeteroFL, Diao et al., ICLR 2021). The slice computes, in evaluation mode, exactly what the large
network computes with zeros everywhere outside of it. Batch-norm statistics are of the whole network's data: keep norms
at the sites, or group norm, where networks of different size are averaged.

States are mappings from key to array; numpy arrays and torch tensors both serve, also partial states (the global part).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from omnifed.errors import OmniFedError
from omnifed.models import scaling
from omnifed.models.base import SiteSpec
from omnifed.models.scaling import Layer
from omnifed.models.spec import StudentSpec

Index = tuple[Any, ...]
"""What goes between the brackets of an array: slices where all axes are leading, else an open mesh of index arrays."""


@dataclass(frozen=True)
class Entry:
    """Where one array of the small state lies in the large one.

    Attributes:
        key: key in the large state.
        index: ``large[key][index]`` is the small array.
        shape: of the small array.
        large_shape: of the large array.
    """

    key: str
    index: Index
    shape: tuple[int, ...]
    large_shape: tuple[int, ...]


SliceMap = dict[str, Entry]
"""For each key of the small state dict, where it lies in the large one."""


def state_shapes(spec: StudentSpec, site: SiteSpec) -> dict[str, tuple[int, ...]]:
    """Keys and shapes of the network's ``state_dict()``, without building it."""
    return {
        key: tuple(sum(axis) for axis in axes)
        for layer in scaling.layers(spec, site)
        for key, axes in _arrays(layer, spec).items()
    }


def covering(students: Iterable[StudentSpec]) -> StudentSpec:
    """The smallest network of which all ``students`` (of equal options) are slices."""
    specs = list(students)
    size = {"alpha": max(spec.alpha for spec in specs), "beta": max(spec.beta for spec in specs)}
    return specs[0].model_copy(update=size)


def slice_map(large: StudentSpec, small: StudentSpec, site: SiteSpec) -> SliceMap:
    """Maps the state of ``small`` into the state of ``large``.

    Args:
        large: the network that holds the slice.
        small: alpha and beta at most those of ``large``, all options equal.
        site: channels and classes of both.

    Raises:
        OmniFedError: OF304 if ``small`` is no sub-network of ``large``.
    """
    _check_nested(large, small)
    small_depth, large_depth = scaling.blocks(small).decoder, scaling.blocks(large).decoder
    holders = {layer.key: layer for layer in scaling.layers(large, site)}
    found: SliceMap = {}
    for layer in scaling.layers(small, site):
        holder = holders[_last_to_last(layer.key, small_depth, large_depth)]
        theirs = _arrays(holder, large)
        for (key, axes), (large_key, large_axes) in zip(_arrays(layer, small).items(), theirs.items(), strict=True):
            index = _index(axes, large_axes)
            shapes = tuple(sum(a) for a in axes), tuple(sum(a) for a in large_axes)
            found[key] = Entry(large_key, index, *shapes)
    return found


def take(state: Mapping[str, Any], found: SliceMap) -> dict[str, Any]:
    """Cuts the small state out of a large one, as copies.

    Args:
        state: the large state, or a part of it; keys that it lacks are left out.
        found: result of :func:`slice_map`.

    Returns:
        The small state, bit for bit.
    """
    return {key: _copy(state[entry.key][entry.index]) for key, entry in found.items() if entry.key in state}


def put(state: Mapping[str, Any], found: SliceMap, into: MutableMapping[str, Any]) -> None:
    """Writes a small state into a large one, in place; all else in ``into`` stays.

    Args:
        state: the small state, or a part of it.
        found: result of :func:`slice_map`.
        into: the large state.

    Raises:
        OmniFedError: OF305 for a key or shape that the map does not know; nothing is written then.
    """
    check(state, found)
    for key, value in state.items():
        entry = found[key]
        into[entry.key][entry.index] = value


def check(state: Mapping[str, Any], found: SliceMap) -> None:
    """Refuses a state that does not fit the map.

    Raises:
        OmniFedError: OF305 for a key or shape that the map does not know.
    """
    for key, value in state.items():
        if key not in found or tuple(value.shape) != found[key].shape:
            raise OmniFedError(
                "OF305",
                "A sub-network's state must have the keys and shapes of its slice map.",
                seen=f"{key} {tuple(value.shape)}, expected {found[key].shape if key in found else 'no such key'}",
                remedy="Send the state of the student that the task names.",
            )


def _check_nested(large: StudentSpec, small: StudentSpec) -> None:
    options = {"alpha": large.alpha, "beta": large.beta}
    depth, held = scaling.blocks(small), scaling.blocks(large)
    narrow = all(s <= b for s, b in zip(scaling.channels(small), scaling.channels(large), strict=True))
    shallow = sum(depth.encoder) <= sum(held.encoder)
    if small.model_copy(update=options) != large or not narrow or not shallow:
        raise OmniFedError(
            "OF304",
            "A sub-network has at most the depth and the width of its network, and equal options.",
            seen=f"{scaling.architecture_key(small)} within {scaling.architecture_key(large)}",
            remedy="Give all students the same stem_stride, fusion, norm, se and aspp, and the global one the largest "
            "alpha and beta.",
        )


def _last_to_last(key: str, small: tuple[int, ...], large: tuple[int, ...]) -> str:
    match = re.match(r"decoder\.(\d+)\.blocks\.(\d+)\.(.*)", key)
    if not match:
        return key
    level, block = int(match[1]), int(match[2])
    if block == small[level] - 1:
        block = large[level] - 1
    return f"decoder.{level}.blocks.{block}.{match[3]}"


def _arrays(layer: Layer, spec: StudentSpec) -> dict[str, tuple[tuple[int, ...], ...]]:
    """Keys of a layer to the segments of each axis."""
    out = layer.outputs
    if layer.kind == "norm":
        arrays: dict[str, tuple[tuple[int, ...], ...]] = {f"{layer.key}.weight": (out,), f"{layer.key}.bias": (out,)}
        if spec.norm == "batch":
            arrays |= {f"{layer.key}.running_mean": (out,), f"{layer.key}.running_var": (out,)}
            arrays[f"{layer.key}.num_batches_tracked"] = ()
        return arrays
    # A group convolution's weight has the inputs of one group: a segment of its own, leading again.
    inputs = layer.inputs if layer.groups == 1 else (sum(layer.inputs) // layer.groups,)
    kernel = () if layer.kind == "linear" else ((layer.kernel,),) * 2
    arrays = {f"{layer.key}.weight": (out, inputs, *kernel)}
    return arrays if layer.kind == "conv" else arrays | {f"{layer.key}.bias": (out,)}


def _index(small: tuple[tuple[int, ...], ...], large: tuple[tuple[int, ...], ...]) -> Index:
    """Leading part of every segment of every axis."""
    if all(len(axis) == 1 for axis in small):
        return tuple(slice(axis[0]) for axis in small)
    return np.ix_(*(_leading(a, b) for a, b in zip(small, large, strict=True)))


def _leading(small: tuple[int, ...], large: tuple[int, ...]) -> np.ndarray:
    starts = np.cumsum([0, *large[:-1]])
    return np.concatenate([start + np.arange(n) for start, n in zip(starts, small, strict=True)])


def _copy(value: Any) -> Any:
    return value.copy() if isinstance(value, np.ndarray | np.generic) else value.clone()
