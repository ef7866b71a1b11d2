"""Label maps of a whole split from a student or a teacher."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from omnifed.data.prepared import Prepared
from omnifed.models.base import Out


def predict_masks(model: Callable[[Tensor], Out], prepared: Prepared, *, batch_size: int = 16) -> np.ndarray:
    """Predicts every slice of a split, in order.

    Args:
        model: anything from images (B, C, H, W) to :class:`~omnifed.models.base.Out`: a student, or a teacher's
            ``predict``. A module is put into evaluation mode and given back in the mode it had, each of its parts.
            Logits (B, classes, h, w) that are smaller than the image are upsampled bilinearly before the argmax.
        prepared: N slices.
        batch_size: slices a forward pass.

    Returns:
        (N, H, W) uint8 label ids.
    """
    masks = np.zeros(prepared.masks.shape, np.uint8)
    device = _device(model)
    with _evaluating(model), torch.inference_mode():
        for start in range(0, len(prepared), batch_size):
            part = slice(start, start + batch_size)
            logits = model(torch.from_numpy(np.asarray(prepared.images[part], np.float32)).to(device)).logits
            if logits.shape[-2:] != masks.shape[-2:]:
                logits = F.interpolate(logits.float(), masks.shape[-2:], mode="bilinear", align_corners=False)
            masks[part] = logits.argmax(1).to(torch.uint8).cpu().numpy()
    return masks


def _device(model: object) -> torch.device:
    parameter = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    return torch.device("cpu") if parameter is None else parameter.device


@contextmanager
def _evaluating(model: object) -> Iterator[None]:
    modes = [(part, part.training) for part in model.modules()] if isinstance(model, nn.Module) else []
    if isinstance(model, nn.Module):
        model.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
