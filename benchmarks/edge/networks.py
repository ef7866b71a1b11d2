"""The students and their rivals by name. None has pre-trained weights, and nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable

import torch
from edge.cmunext import CMUNeXt
from torch import Tensor, nn
from torch.nn import functional as F

from omnifed.models.base import Out, SiteSpec
from omnifed.models.registry import build_student
from omnifed.models.spec import StudentSpec

CHANNELS = 3


class Bare(nn.Module):
    """A network of logits (B, classes, h, w) that may be smaller than the image: upsampled bilinearly."""

    def __init__(self, network: nn.Module, logits: Callable[[object], Tensor] = lambda out: out) -> None:  # type: ignore
        super().__init__()
        self.network, self.logits = network, logits

    def forward(self, x: Tensor) -> Out:
        """Image (B, 3, H, W) to logits (B, classes, H, W)."""
        logits = self.logits(self.network(x))
        if logits.shape[-2:] != x.shape[-2:]:
            logits = F.interpolate(logits, x.shape[-2:], mode="bilinear", align_corners=False)
        return Out(logits)


def unet(classes: int) -> nn.Module:
    """U-Net (Ronneberger et al., MICCAI 2015) of 32 to 512 channels with batch normalisation, 7.8 M parameters."""
    from monai.networks.nets import BasicUNet

    widths = (32, 64, 128, 256, 512, 32)
    return Bare(BasicUNet(2, CHANNELS, classes, features=widths, act="relu", norm="batch"))


def attention_unet(classes: int) -> nn.Module:
    """Attention U-Net (Oktay et al., MIDL 2018) of 16 to 256 channels."""
    from monai.networks.nets import AttentionUnet

    return Bare(AttentionUnet(2, CHANNELS, classes, (16, 32, 64, 128, 256), (2, 2, 2, 2)))


def segformer_b0(classes: int) -> nn.Module:
    """SegFormer-B0 (Xie et al., NeurIPS 2021): 3.7 M parameters, logits at a quarter of the sides."""
    from omnifed.teachers.torchvision_shim import import_segment_anything

    import_segment_anything()  # transformers imports torchvision too, and this cures one that does not load
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    config = SegformerConfig(
        num_channels=CHANNELS,
        num_labels=classes,
        depths=[2, 2, 2, 2],
        hidden_sizes=[32, 64, 160, 256],
        num_attention_heads=[1, 2, 5, 8],
        decoder_hidden_size=256,
    )
    return Bare(SegformerForSemanticSegmentation(config), lambda out: out.logits)  # type: ignore[attr-defined]


def swin_unetr(classes: int) -> nn.Module:
    """SwinUNETR (Hatamizadeh et al., BrainLes 2021) in 2D with feature size 24."""
    from monai.networks.nets import SwinUNETR

    return Bare(SwinUNETR(CHANNELS, classes, feature_size=24, spatial_dims=2))


RIVALS: dict[str, Callable[[int], nn.Module]] = {
    "cmunext-s": lambda classes: CMUNeXt("s", classes, CHANNELS),
    "cmunext": lambda classes: CMUNeXt("base", classes, CHANNELS),
    "cmunext-l": lambda classes: CMUNeXt("l", classes, CHANNELS),
    "unet": unet,
    "attention-unet": attention_unet,
    "segformer-b0": segformer_b0,
    "swinunetr": swin_unetr,
}


def build(name: str, classes: int, *, seed: int = 0) -> nn.Module:
    """A network with fresh weights, in training mode; the global random state is left as it was.

    Args:
        name: key of :data:`RIVALS`, or a student as :meth:`omnifed.models.spec.StudentSpec.parse` reads it.
        classes: of the logits, background included.
        seed: of the weights.

    Raises:
        OmniFedError: OF301 for an unknown name.
    """
    if name not in RIVALS:
        return build_student(StudentSpec.parse(name), SiteSpec(CHANNELS, classes), seed=seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return RIVALS[name](classes).train()


def split_names(text: str) -> list[str]:
    """Names of a command line: ``unet,omnisegnet:compact,stem_stride=2,cmunext`` are three.

    What follows a student and is neither a rival's name nor has a colon is an option of that student.
    """
    names: list[str] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        own = ":" in part or part in RIVALS or not names or ":" not in names[-1]
        names = [*names, part] if own else [*names[:-1], f"{names[-1]},{part}"]
    return names


def folder_name(name: str) -> str:
    """The name as a folder: ``omnisegnet:compact,stem_stride=2`` is ``omnisegnet-compact-stem_stride=2``."""
    return name.replace(":", "-").replace(",", "-")
