"""What one inference asks of a device, counted from the layer list: arithmetic by kind of layer, memory. No torch."""

from __future__ import annotations

from dataclasses import dataclass

from omnifed.errors import OmniFedError
from omnifed.models import scaling
from omnifed.models.base import SiteSpec
from omnifed.models.scaling import Layer
from omnifed.models.spec import StudentSpec

FLOAT_BYTES = 4
KINDS = ("dense", "pointwise", "depthwise")
"""Kinds of layers, as the fields of :class:`Work`."""


@dataclass(frozen=True)
class Part:
    """Layers of one kind.

    Attributes:
        gmac: billions of multiply-accumulates.
        gvalues: billions of numbers that the layers read and write: inputs, outputs, weights.
    """

    gmac: float
    gvalues: float


@dataclass(frozen=True)
class Work:
    """One image through one student.

    Attributes:
        dense: 3x3 convolutions of one or two groups (stem, ASPP, the concat block).
        pointwise: 1x1 convolutions, the head and the gates' linear layers.
        depthwise: 3x3 convolutions of one channel a group.
        layers: convolutions and linear layers; norms are folded into them on export.
        weights_mib: in float32.
        activations_mib: the decoder's last level in float32: all skips are held while its widest layer runs.
    """

    dense: Part
    pointwise: Part
    depthwise: Part
    layers: int
    weights_mib: float
    activations_mib: float


def work(student: StudentSpec, site: SiteSpec, size: tuple[int, int]) -> Work:
    """Counts what one image costs.

    Args:
        student: the network.
        site: its channels and classes.
        size: height and width of the image in pixels.

    Returns:
        The work; the parts' multiply-accumulates add up to :func:`omnifed.models.scaling.costs`.

    Raises:
        OmniFedError: OF303 if a side is no multiple of what the student halves.
    """
    step = scaling.divisor(student)
    if size[0] % step or size[1] % step:
        raise OmniFedError(
            "OF303",
            "A student takes images whose sides are multiples of 16 (of 32 with stem_stride=2).",
            seen=f"{size[0]} x {size[1]}, multiples of {step}",
            remedy=f"Use for example {-(-size[0] // step) * step}.",
        )
    macs, values = dict.fromkeys(KINDS, 0), dict.fromkeys(KINDS, 0)
    count = weights = widest = skips = 0
    for layer in scaling.layers(student, site):
        if layer.kind == "norm" or layer.folds:
            continue
        kind, pixels = _kind(layer), _pixels(layer.divisor, size)
        numbers = sum(layer.outputs) * sum(layer.inputs) // layer.groups * layer.kernel**2
        maps = (sum(layer.inputs) + sum(layer.outputs)) * pixels
        macs[kind] += numbers * pixels
        values[kind] += numbers + maps
        count, weights, widest = count + 1, weights + numbers, max(widest, maps)
    for i, width in enumerate(scaling.channels(student)[: scaling.LEVELS]):
        skips += width * _pixels(student.stem_stride << i, size)
    parts = {kind: Part(macs[kind] / 1e9, values[kind] / 1e9) for kind in macs}
    return Work(**parts, layers=count, weights_mib=_mib(weights), activations_mib=_mib(widest + skips))


def _kind(layer: Layer) -> str:
    if layer.kernel == 1:
        return "pointwise"
    return "dense" if layer.groups <= 2 else "depthwise"


def _pixels(divisor: int, size: tuple[int, int]) -> int:
    return (size[0] // divisor) * (size[1] // divisor) if divisor else 1


def _mib(numbers: int) -> float:
    return numbers * FLOAT_BYTES / 2**20
