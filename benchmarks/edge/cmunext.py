"""CMUNeXt, written from its paper: the published rival of the students in speed.

Tang, Ding, Quan, Wang, Ning, Zhou: CMUNeXt: An Efficient Medical Image Segmentation Network Based on Large Kernel and
Skip Fusion, ISBI 2024 (arXiv 2308.01239).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from omnifed.models.base import Out


class Size(NamedTuple):
    """Channels, CMUNeXt blocks and kernel size of the five stages."""

    channels: tuple[int, ...]
    blocks: tuple[int, ...]
    kernels: tuple[int, ...]


SIZES = {
    "s": Size((8, 16, 32, 64, 128), (1, 1, 1, 1, 1), (3, 3, 7, 7, 9)),
    "base": Size((16, 32, 128, 160, 256), (1, 1, 1, 3, 1), (3, 3, 7, 7, 7)),
    "l": Size((32, 64, 128, 256, 512), (1, 1, 1, 6, 3), (3, 3, 7, 7, 7)),
}


class CMUNeXt(nn.Module):
    """Five stages of large depthwise kernels, a decoder of bilinear upsampling and skip-fusion blocks, a 1x1 head.

    Args:
        size: key of :data:`SIZES`.
        classes: of the logits, background included.
        channels: of the image.
    """

    def __init__(self, size: str, classes: int, channels: int = 3) -> None:
        super().__init__()
        widths, blocks, kernels = SIZES[size]
        before = (widths[0], *widths[:-1])
        self.stem = _conv(channels, widths[0])
        self.stages = nn.ModuleList(map(_stage, before, widths, blocks, kernels))
        self.ups = nn.ModuleList(map(_conv, widths[1:], widths[:-1]))
        self.fusions = nn.ModuleList(map(_fusion, widths[:-1]))
        self.head = nn.Conv2d(widths[0], classes, 1)

    def forward(self, x: Tensor) -> Out:
        """Image (B, channels, H, W), sides multiples of 16, to logits (B, classes, H, W)."""
        x = self.stages[0](self.stem(x))
        skips = []
        for stage in self.stages[1:]:
            skips.append(x)
            x = stage(F.max_pool2d(x, 2))
        for up, fusion, skip in zip(self.ups[::-1], self.fusions[::-1], skips[::-1], strict=True):
            x = up(F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False))
            x = fusion(torch.cat([skip, x], 1))
        return Out(self.head(x))


class _Residual(nn.Module):
    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + x


def _conv(before: int, after: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU())


def _gelu(conv: nn.Conv2d) -> list[nn.Module]:
    return [conv, nn.GELU(), nn.BatchNorm2d(conv.out_channels)]


def _inverted(before: int, hidden: int, after: int) -> list[nn.Module]:
    return [*_gelu(nn.Conv2d(before, hidden, 1)), *_gelu(nn.Conv2d(hidden, after, 1))]


def _stage(before: int, after: int, blocks: int, kernel: int) -> nn.Module:
    """CMUNeXt blocks (large depthwise kernel with a skip, inverted bottleneck of expansion 4), then a 3x3 conv."""
    layers: list[nn.Module] = []
    for _ in range(blocks):
        depthwise = nn.Conv2d(before, before, kernel, padding=kernel // 2, groups=before)
        layers += [_Residual(nn.Sequential(*_gelu(depthwise))), *_inverted(before, 4 * before, before)]
    return nn.Sequential(*layers, _conv(before, after))


def _fusion(width: int) -> nn.Module:
    """Skip fusion: 3x3 conv with a group for each source, inverted bottleneck of expansion 4."""
    grouped = nn.Conv2d(2 * width, 2 * width, 3, padding=1, groups=2)
    return nn.Sequential(*_gelu(grouped), *_inverted(2 * width, 4 * width, width))
