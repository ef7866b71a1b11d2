"""OmniSegNet: the family that scales in depth (alpha) and width (beta). Shapes: :mod:`omnifed.models.scaling`."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omnifed.errors import OmniFedError
from omnifed.models import scaling
from omnifed.models.base import BOTTLENECK, LayerGroup, Out, SiteSpec
from omnifed.models.init import initialise
from omnifed.models.spec import StudentSpec
from omnifed.models.student import Student

GROUPS: dict[str, LayerGroup] = {
    "stem": "stem",
    "encoder": "encoder",
    "context": "context",
    "decoder": "decoder",
    "head": "head",
}


class BatchNorm(nn.BatchNorm2d):
    """Batch norm that also takes one value a channel (one image at ASPP's pooled branch), where torch gives up.

    One value has no variance to learn from: the running statistics normalise it and stay as they are.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, h, w), normalised."""
        if self.training and x.numel() == x.shape[1]:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(x)


def _norm(width: int, kind: str) -> nn.Module:
    """Batch norm; or group norm over 16 channels a group, so that a leading slice of channels holds whole groups."""
    return BatchNorm(width) if kind == "batch" else nn.GroupNorm(width // scaling.CHANNEL_STEP, width)


def _conv(
    inputs: int, outputs: int, kernel: int = 1, *, stride: int = 1, dilation: int = 1, groups: int = 1
) -> nn.Conv2d:
    pad = dilation * (kernel // 2)
    return nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=pad, dilation=dilation, groups=groups, bias=False)


class Stem(nn.Module):
    """3x3 convolution, norm, ReLU."""

    def __init__(self, channels: int, width: int, stride: int, norm: str) -> None:
        super().__init__()
        self.conv, self.norm = _conv(channels, width, 3, stride=stride), _norm(width, norm)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) to (B, width, H / stride, W / stride)."""
        return F.relu(self.norm(self.conv(x)))


class Gate(nn.Module):
    """Squeeze and excitation (Hu et al., CVPR 2018) with the gate 2 sigmoid(z) instead of sigmoid(z).

    With all weights zero it passes its input unchanged, and with it a whole residual block is the identity: this makes
    a shallower network an exact slice of a deeper one. The norm that follows takes up the constant factor.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = scaling.se_hidden(width)
        self.squeeze, self.excite = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, h, w), each channel scaled by a factor in 0..2."""
        gate = 2 * torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3))))))
        return x * gate[:, :, None, None].to(x.dtype)


class Block(nn.Module):
    """SE residual block: gate(project(x) + norm(1x1(relu(spatial(x))))); no projection at equal widths.

    spatial(x) is norm(depthwise 3x3(x)), with ``branches`` plus norm(depthwise 1x1(x)) plus norm(x).
    """

    def __init__(self, width: int, out: int, spec: StudentSpec, gate: bool) -> None:
        super().__init__()
        norm = spec.norm
        self.depthwise, self.depthwise_norm = _conv(width, width, 3, groups=width), _norm(width, norm)
        if spec.branches:
            self.scale, self.scale_norm = _conv(width, width, groups=width), _norm(width, norm)
            self.same_norm = _norm(width, norm)
        self.pointwise, self.pointwise_norm = _conv(width, out), _norm(out, norm)
        if width != out:
            self.project, self.project_norm = _conv(width, out), _norm(out, norm)
        self.gate = Gate(out) if gate else nn.Identity()
        self.projects, self.branches = width != out, spec.branches

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, h, w) to (B, out, h, w)."""
        spatial = self.depthwise_norm(self.depthwise(x))
        if self.branches:
            spatial = spatial + self.scale_norm(self.scale(x)) + self.same_norm(x)
        branch = self.pointwise_norm(self.pointwise(F.relu(spatial)))
        return self.gate(branch + (self.project_norm(self.project(x)) if self.projects else x))


class Context(nn.Module):
    """ASPP (Chen et al., 2017): 1x1, three dilated 3x3 and a global-pooling branch, concatenated and fused by 1x1.

    With ``aspp=False`` only the fusing 1x1 stays, on the encoder's output.
    """

    def __init__(self, width: int, out: int, norm: str, aspp: bool) -> None:
        super().__init__()
        self.aspp, mid, count = aspp, scaling.ASPP_WIDTH, len(scaling.DILATIONS)
        if aspp:
            self.point, self.point_norm = _conv(width, mid), _norm(mid, norm)
            self.dilated = nn.ModuleList(_conv(width, mid, 3, dilation=d) for d in scaling.DILATIONS)
            self.dilated_norm = nn.ModuleList(_norm(mid, norm) for _ in range(count))
            self.pooled, self.pooled_norm = _conv(width, mid), _norm(mid, norm)
        self.fuse, self.fuse_norm = _conv(mid * (2 + count) if aspp else width, out), _norm(out, norm)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, h, w) to (B, out, h, w)."""
        if self.aspp:
            maps = [F.relu(self.point_norm(self.point(x)))]
            for conv, norm in zip(self.dilated, self.dilated_norm, strict=True):
                maps.append(F.relu(norm(conv(x))))
            pooled = F.relu(self.pooled_norm(self.pooled(x.mean((2, 3), keepdim=True))))
            x = torch.cat([*maps, pooled.expand_as(maps[0])], 1)
        return F.relu(self.fuse_norm(self.fuse(x)))


def _twice(x: Tensor, mode: str) -> Tensor:
    if mode == "nearest":
        return F.interpolate(x, scale_factor=2.0, mode="nearest")
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


class Level(nn.Module):
    """Decoder level: the concat block ("modified skip") and SE residual blocks, the last one to the next width.

    ``fusion = "group"`` extracts features of the two sources apart (2 groups, one a source).
    """

    def __init__(self, width: int, out: int, count: int, spec: StudentSpec) -> None:
        super().__init__()
        self.upsample = spec.upsample
        both, wide = 2 * width, spec.expansion * width
        groups = 2 if spec.fusion == "group" else both
        self.mix, self.mix_norm = _conv(both, both, 3, groups=groups), _norm(both, spec.norm)
        self.expand, self.expand_norm = _conv(both, wide), _norm(wide, spec.norm)
        self.reduce, self.reduce_norm = _conv(wide, width), _norm(width, spec.norm)
        self.blocks = nn.Sequential(
            *(
                Block(width, out if j == count - 1 else width, spec, scaling.decoder_gate(spec, j, count))
                for j in range(count)
            )
        )

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(B, width, h, w) from below and (B, width, 2h, 2w) from the encoder to (B, out, 2h, 2w)."""
        x = _twice(x, self.upsample)
        x = F.relu(self.mix_norm(self.mix(torch.cat([x, skip], 1))))
        x = F.relu(self.expand_norm(self.expand(x)))
        return self.blocks(self.reduce_norm(self.reduce(x)))


class OmniSegNet(Student):
    """SE encoder, ASPP bottleneck, decoder with modified skips.

    Args:
        spec: scaling and options.
        site: input channels and classes; two dimensions.
        seed: of the weights, see :func:`omnifed.models.registry.build_student`.

    Raises:
        OmniFedError: OF302 for a site with volumes.
    """

    def __init__(self, spec: StudentSpec, site: SiteSpec, *, seed: int = 0) -> None:
        super().__init__()
        if site.dimensions != 2:
            raise OmniFedError(
                "OF302",
                "This family of students takes two-dimensional images.",
                seen=f"{site.dimensions} dimensions",
                remedy="Slice volumes (slice_axis in site.toml).",
            )
        self.spec, self.site = spec, site
        c, depth = scaling.channels(spec), scaling.blocks(spec)
        with torch.device("meta"):  # no default initialisation: it would draw from the global random state
            self.stem = Stem(site.channels, c[0], spec.stem_stride, spec.norm)
            self.encoder = nn.ModuleList(
                nn.Sequential(
                    *(
                        Block(c[max(0, i - 1)] if j == 0 else c[i], c[i], spec, scaling.encoder_gate(spec, j))
                        for j in range(depth.encoder[i])
                    )
                )
                for i in range(scaling.STAGES)
            )
            self.context = Context(c[4], c[3], spec.norm, spec.aspp)
            self.decoder = nn.ModuleList(
                Level(c[i], c[max(0, i - 1)], depth.decoder[i], spec) for i in range(scaling.LEVELS)
            )
            self.head = nn.Conv2d(c[0], site.classes * scaling.shuffled(spec) ** 2, 1)
        self.to_empty(device="cpu")
        initialise(self, seed)

    @property
    def feature_channels(self) -> dict[str, int]:
        """Channels of each tap in ``Out.features``."""
        return {BOTTLENECK: scaling.channels(self.spec)[3]}

    @property
    def architecture_key(self) -> str:
        """See :func:`omnifed.models.scaling.architecture_key`."""
        return scaling.architecture_key(self.spec)

    def layer_groups(self) -> dict[str, LayerGroup]:
        """Every key of ``state_dict()`` to its group; all of a norm is ``norm``."""
        norms = {name for name, part in self.named_modules() if isinstance(part, nn.BatchNorm2d | nn.GroupNorm)}
        return {
            key: "norm" if key.rpartition(".")[0] in norms else GROUPS[key.partition(".")[0]]
            for key in self.state_dict()
        }

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Out:
        """Segments a batch.

        Args:
            x: (B, channels, H, W), normalised; H and W multiples of 16 (of 32 with ``stem_stride=2``).
            condition: not used by this family.

        Returns:
            Logits (B, classes, H, W), float32 also under autocast, and the map after the context module
            (B, c_3, H / 16, W / 16), a factor 2 smaller with ``stem_stride=2``.

        Raises:
            OmniFedError: OF303 for other channels or sides.
        """
        self._check(x)
        x, skips = self.stem(x), []
        for i, stage in enumerate(self.encoder):
            x = stage(x if i == 0 else F.max_pool2d(x, 2))
            skips.append(x)
        x = bottleneck = self.context(x)
        for i in reversed(range(scaling.LEVELS)):
            x = cast(Level, self.decoder[i])(x, skips[i])
        if torch.is_autocast_enabled(x.device.type):
            with torch.autocast(x.device.type, enabled=False):
                logits = self.head(x.float())
        else:
            logits = self.head(x)
        if self.spec.head == "shuffle":
            logits = F.pixel_shuffle(logits, self.spec.stem_stride)
        elif self.spec.stem_stride == 2:
            logits = _twice(logits, "bilinear")
        return Out(logits, {BOTTLENECK: bottleneck})

    def _check(self, x: Tensor) -> None:
        step = scaling.divisor(self.spec)
        if x.ndim != 4 or x.shape[1] != self.site.channels or x.shape[2] % step or x.shape[3] % step:
            raise OmniFedError(
                "OF303",
                "A student takes B x channels x H x W with its site's channels and sides that are multiples of 16 "
                "(of 32 with stem_stride=2).",
                seen=f"{'x'.join(map(str, x.shape))}, {self.site.channels} channels, multiples of {step}",
                remedy="Set image_size and channels in site.toml, or pad the image.",
            )
