"""The supervised loss of every student and teacher."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SMOOTH = 1.0
"""Pixels added to both sides of the Dice ratio: defined, and zero loss, for a class that nobody sees or predicts."""


def segmentation_loss(
    logits: Tensor,
    label: Tensor,
    has_label: Tensor,
    present: Tensor,
    *,
    ce: float = 1.0,
    dice: float = 1.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """``ce`` * cross entropy + ``dice`` * soft Dice loss, over the classes that the site has.

    Classes absent at the site are taken out of the softmax, so that training there neither rewards nor punishes them
    and other sites' knowledge of them survives. Cross entropy is the mean over labelled pixels. Soft Dice (Milletari et
    al., 3DV 2016) is 1 - (2 sum p y + 1) / (sum p + sum y + 1) over the whole batch, averaged over foreground classes.

    Args:
        logits: (B, C, H, W).
        label: (B, H, W) int64; pixels that are not the id of a present class (``IGNORE`` first of all) carry no label.
        has_label: (B,) bool.
        present: (C,) bool; the background counts as present.
        ce: weight of the cross entropy.
        dice: weight of the Dice loss.

    Returns:
        The loss and its two parts ``ce`` and ``dice``; all are zero, with a graph, without any labelled pixel.
    """
    logits = logits.float() if logits.dtype != torch.float64 else logits
    classes = logits.shape[1]
    present = present.clone()
    present[0] = True
    known = label.clamp(0, classes - 1)
    valid = (label == known) & present[known] & has_label[:, None, None]
    logits = logits.masked_fill(~present[None, :, None, None], torch.finfo(logits.dtype).min)
    logs = F.log_softmax(logits, dim=1)
    picked = logs.gather(1, known[:, None])[:, 0]
    entropy = -(picked * valid).sum() / valid.sum().clamp_min(1)
    mask = valid[:, None].to(logs.dtype)
    soft = logs[:, 1:].exp() * mask
    ids = torch.arange(1, classes, device=label.device)[None, :, None, None]
    hard = (known[:, None] == ids) * mask
    axes = (0, 2, 3)
    ratio = (2 * (soft * hard).sum(axes) + SMOOTH) / (soft.sum(axes) + hard.sum(axes) + SMOOTH)
    weight = present[1:].to(ratio.dtype)
    overlap = ((1 - ratio) * weight).sum() / weight.sum().clamp_min(1)
    return ce * entropy + dice * overlap, {"ce": entropy.detach(), "dice": overlap.detach()}
