"""From (alpha, beta) to a network: widths, blocks, every layer's shape, exact costs. Needs no torch.

The rule (``omnisegnet``; the paper fixes the blocks and Table 1, the rule is fitted to that table):

- ``n = floor(10 alpha + 1/2)`` blocks in the encoder (5 stages) and ``n`` in the decoder (4 levels); what does not
  divide goes to the shallowest;
- ``c_i = 16 floor(min(256, 24 * 2^i) * beta^0.75 / 16 + 1/2)`` channels at stage i = 0..4.

Widths are multiples of 16, so few distinct networks exist: pairs that round to the same one share
:func:`architecture_key`. The layer list below is the single description from which costs and slices follow;
:class:`omnifed.models.omnisegnet.OmniSegNet` is held to it by tests.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from omnifed.models.base import SiteSpec
from omnifed.models.spec import StudentSpec

STAGES, LEVELS = 5, 4
ASPP_WIDTH = 160
"""Channels of each ASPP branch, the same in all networks."""
DILATIONS = (6, 12, 18)
"""Dilations of ASPP's 3x3 branches; beside them stand a 1x1 and a global-pooling branch."""
CHANNEL_STEP = 16
"""All widths are multiples of it; also the channels of one group where ``norm = "group"``."""


@dataclass(frozen=True)
class Blocks:
    """SE residual blocks by encoder stage (5, from full resolution down) and decoder level (4, shallowest first)."""

    encoder: tuple[int, ...]
    decoder: tuple[int, ...]


@dataclass(frozen=True)
class Costs:
    """Exact costs of one forward pass.

    Attributes:
        params: trainable numbers.
        macs: multiply-accumulates of all convolutions and linear layers for one image; 2 macs are the "FLOPs" of the
            paper's Table 1. Norms, activations, pooling and upsampling are not counted, as is usual.
    """

    params: int
    macs: int


@dataclass(frozen=True)
class Layer:
    """One layer of the network that holds state.

    Attributes:
        key: prefix of its keys in ``state_dict()``.
        kind: ``conv`` (no bias), ``head`` (1x1 conv with bias), ``linear`` (with bias) or ``norm``.
        inputs, outputs: channels, one number a concatenated segment; a norm has outputs only.
        kernel: side of the kernel.
        groups: convolution groups.
        divisor: input side / side of the layer's output map; 0 where it works on one vector an image.
        folds: whether it is a branch that is merged into another layer on export and costs nothing there.
    """

    key: str
    kind: Literal["conv", "head", "linear", "norm"]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    kernel: int = 1
    groups: int = 1
    divisor: int = 1
    folds: bool = False


def channels(spec: StudentSpec) -> tuple[int, ...]:
    """Channels c_0..c_4 of the encoder's stages; the decoder's levels have c_0..c_3."""
    width = spec.beta**0.75
    return tuple(CHANNEL_STEP * math.floor(min(256, 24 * 2**i) * width / CHANNEL_STEP + 0.5) for i in range(STAGES))


def blocks(spec: StudentSpec) -> Blocks:
    """SE residual blocks by stage and level."""
    n = math.floor(10 * spec.alpha + 0.5)
    return Blocks(encoder=_spread(n, STAGES), decoder=_spread(n, LEVELS))


def _spread(n: int, parts: int) -> tuple[int, ...]:
    return tuple(n // parts + (i < n % parts) for i in range(parts))


def se_hidden(width: int) -> int:
    """Hidden units of the squeeze-and-excitation gate: max(8, width / 4)."""
    return max(8, width // 4)


def divisor(spec: StudentSpec) -> int:
    """Sides of an image must be multiples of it: four 2x2 pools, and the stem's stride."""
    return 16 * spec.stem_stride


def architecture_key(spec: StudentSpec) -> str:
    """Names the network: equal for two specs if and only if all shapes and options are equal."""
    widths, depth = channels(spec), blocks(spec)
    parts = [
        spec.family,
        "c" + "-".join(map(str, widths)),
        "e" + "-".join(map(str, depth.encoder)),
        "d" + "-".join(map(str, depth.decoder)),
        f"stem{spec.stem_stride}",
        spec.fusion,
        spec.norm,
        {True: "se", False: "nose", "stage": "stagese"}[spec.se],
        "aspp" if spec.aspp else "noaspp",
    ]
    # Named only where they differ from the paper's: keys that were written before they existed stay what they are.
    parts += [] if spec.upsample == "bilinear" else [spec.upsample]
    parts += [] if spec.head == "pointwise" else [spec.head]
    parts += [] if spec.expansion == 3 else [f"expand{spec.expansion}"]
    parts += ["branches"] if spec.branches else []
    return "/".join(parts)


def encoder_gate(spec: StudentSpec, block: int) -> bool:
    """Whether a block of an encoder stage has a gate: with ``se = "stage"`` the first one, which all slices hold."""
    return spec.se is True or (spec.se == "stage" and block == 0)


def decoder_gate(spec: StudentSpec, block: int, count: int) -> bool:
    """Whether one of ``count`` blocks of a decoder level has a gate: with ``se = "stage"`` the last, as slices go last
    to last."""
    return spec.se is True or (spec.se == "stage" and block == count - 1)


def layers(spec: StudentSpec, site: SiteSpec) -> Iterator[Layer]:
    """Every layer with state, in the network's order."""
    c, depth = channels(spec), blocks(spec)
    side = spec.stem_stride
    yield from _conv_norm("stem.conv", "stem.norm", (site.channels,), (c[0],), kernel=3, divisor=side)
    width = c[0]
    for i in range(STAGES):
        for j in range(depth.encoder[i]):
            yield from _block(f"encoder.{i}.{j}", width, c[i], side << i, spec.branches, encoder_gate(spec, j))
            width = c[i]
    yield from _context(c[4], c[3], side << LEVELS, spec.aspp)
    for i in reversed(range(LEVELS)):
        at, key, pair = side << i, f"decoder.{i}", (c[i], c[i])
        groups = 2 if spec.fusion == "group" else 2 * c[i]
        yield from _conv_norm(f"{key}.mix", f"{key}.mix_norm", pair, pair, kernel=3, groups=groups, divisor=at)
        wide = (spec.expansion * c[i],)
        yield from _conv_norm(f"{key}.expand", f"{key}.expand_norm", pair, wide, divisor=at)
        yield from _conv_norm(f"{key}.reduce", f"{key}.reduce_norm", wide, (c[i],), divisor=at)
        for j in range(depth.decoder[i]):
            out = c[max(0, i - 1)] if j == depth.decoder[i] - 1 else c[i]
            gate = decoder_gate(spec, j, depth.decoder[i])
            yield from _block(f"{key}.blocks.{j}", c[i], out, at, spec.branches, gate)
    yield Layer("head", "head", (c[0],), (site.classes * shuffled(spec) ** 2,), divisor=side)


def shuffled(spec: StudentSpec) -> int:
    """Pixels along each axis that the head predicts at each place of its map."""
    return spec.stem_stride if spec.head == "shuffle" else 1


def _conv_norm(
    conv: str,
    norm: str,
    inputs: tuple[int, ...],
    outputs: tuple[int, ...],
    *,
    kernel: int = 1,
    groups: int = 1,
    divisor: int,
    folds: bool = False,
) -> Iterator[Layer]:
    yield Layer(conv, "conv", inputs, outputs, kernel, groups, divisor, folds)
    yield Layer(norm, "norm", (), outputs, divisor=divisor, folds=folds)


def _block(key: str, width: int, out: int, at: int, branches: bool, gate: bool) -> Iterator[Layer]:
    each = {"inputs": (width,), "outputs": (width,), "groups": width, "divisor": at}
    yield from _conv_norm(f"{key}.depthwise", f"{key}.depthwise_norm", kernel=3, **each)  # type: ignore[arg-type]
    if branches:
        yield from _conv_norm(f"{key}.scale", f"{key}.scale_norm", folds=True, **each)  # type: ignore[arg-type]
        yield Layer(f"{key}.same_norm", "norm", (), (width,), divisor=at, folds=True)
    yield from _conv_norm(f"{key}.pointwise", f"{key}.pointwise_norm", (width,), (out,), divisor=at)
    if width != out:
        yield from _conv_norm(f"{key}.project", f"{key}.project_norm", (width,), (out,), divisor=at)
    if gate:
        yield Layer(f"{key}.gate.squeeze", "linear", (out,), (se_hidden(out),), divisor=0)
        yield Layer(f"{key}.gate.excite", "linear", (se_hidden(out),), (out,), divisor=0)


def _context(width: int, out: int, at: int, aspp: bool) -> Iterator[Layer]:
    branch = (ASPP_WIDTH,)
    if aspp:
        yield from _conv_norm("context.point", "context.point_norm", (width,), branch, divisor=at)
        for k in range(len(DILATIONS)):
            keys = f"context.dilated.{k}", f"context.dilated_norm.{k}"
            yield from _conv_norm(*keys, (width,), branch, kernel=3, divisor=at)
        yield from _conv_norm("context.pooled", "context.pooled_norm", (width,), branch, divisor=0)
    inputs = branch * (2 + len(DILATIONS)) if aspp else (width,)
    yield from _conv_norm("context.fuse", "context.fuse_norm", inputs, (out,), divisor=at)


def costs(spec: StudentSpec, site: SiteSpec, size: int | tuple[int, int] = 256) -> Costs:
    """Exact parameters and multiply-accumulates, without building the network.

    Table 1's columns are those of a head with one logit at 256x256x3: ``SiteSpec(channels=3, classes=1)`` gives
    1.561 / 3.225 / 6.028 M and 4.60 / 12.60 / 21.43 G FLOPs (2 macs) for compact / balanced / accurate. Convolutions
    have no bias but the head's, each has a norm (the projection and ASPP's pooled branch too), the gate's two linear
    layers have biases. A second class adds c_0 + 1 parameters and c_0 macs a pixel. Branches that fold away on export
    are not counted.

    Args:
        spec: the student.
        site: its input channels and classes.
        size: side, or height and width, in pixels; a multiple of :func:`divisor`.

    Returns:
        Costs for one image.
    """
    height, width = (size, size) if isinstance(size, int) else size
    params = macs = 0
    for layer in layers(spec, site):
        out = sum(layer.outputs)
        if layer.folds:
            continue
        if layer.kind == "norm":
            params += 2 * out
            continue
        weights = out * sum(layer.inputs) // layer.groups * layer.kernel**2
        params += weights + (0 if layer.kind == "conv" else out)
        macs += weights * ((height // layer.divisor) * (width // layer.divisor) if layer.divisor else 1)
    return Costs(params, macs)
