"""Merges what only training needs: batch norms into their convolutions, parallel branches into one kernel."""

from __future__ import annotations

import copy
import re
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

Network = TypeVar("Network", bound=nn.Module)
_PARTNER = re.compile(r"(?P<conv>.*?)(?:_norm(?P<at>\.\d+)?|\.norm)$")


def fold(network: Network) -> Network:
    """An equal network for evaluation without batch norms.

    A norm called ``x_norm`` (or ``norm``) belongs to the convolution ``x`` (or ``conv``) beside it. With running mean m
    and variance v, scale g and shift b, w' = g w / sqrt(v + eps) and b' = b - g m / sqrt(v + eps). The branches
    ``scale`` (depthwise 1x1) and ``same_norm`` (the identity) beside a depthwise 3x3 are added to the middle of its
    kernel (RepVGG, Ding et al., CVPR 2021). Group norms depend on the image and stay.

    Args:
        network: is not changed.

    Returns:
        A copy in evaluation mode; its outputs differ from the network's by rounding only.
    """
    folded = copy.deepcopy(network).eval()
    norms = {name: part for name, part in folded.named_modules() if isinstance(part, nn.BatchNorm2d)}
    for name, norm in norms.items():
        match = _PARTNER.match(name)
        partner = match and (f"{match['conv']}{match['at'] or ''}" if "_norm" in name else f"{match['conv']}.conv")
        if partner and isinstance(conv := _find(folded, partner), nn.Conv2d):
            folded.set_submodule(partner, fuse_conv_bn_eval(conv, norm))
            folded.set_submodule(name, nn.Identity())
    for part in folded.modules():
        if getattr(part, "branches", False):
            _merge(part)
    return folded


def _find(network: nn.Module, name: str) -> nn.Module | None:
    try:
        return network.get_submodule(name)
    except AttributeError:
        return None


def _merge(block: nn.Module) -> None:
    spatial, scale, same = block.depthwise, block.scale, block.same_norm
    assert isinstance(spatial, nn.Conv2d)
    assert isinstance(scale, nn.Conv2d)
    assert isinstance(same, nn.BatchNorm2d)
    factor, shift = _affine(same)
    with torch.no_grad():
        spatial.weight[:, 0, 1, 1] += scale.weight[:, 0, 0, 0] + factor
        assert spatial.bias is not None
        assert scale.bias is not None
        spatial.bias += scale.bias + shift
    del block.scale, block.scale_norm, block.same_norm
    block.branches = False  # type: ignore[assignment]


def _affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Factor and shift of each channel, (width,) each."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    factor = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    return factor, norm.bias - norm.running_mean * factor
