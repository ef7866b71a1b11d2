from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from omnifed.evaluation.predict import predict_masks
from omnifed.models.base import Out


class Threshold(nn.Module):
    """Two logits, 0.5 and the image: class 1 where the image is above 0.5."""

    def __init__(self, shrink: int = 1) -> None:
        super().__init__()
        self.shrink = shrink
        self.frozen = nn.Dropout(0.9).eval()
        self.seen: list[bool] = []

    def forward(self, x: Tensor) -> Out:
        self.seen.append(self.training)
        x = self.frozen(F.avg_pool2d(x, self.shrink))
        return Out(torch.cat([torch.full_like(x, 0.5), x], 1))


def test_predicts_all_batches_in_evaluation_mode_and_restores_each_parts_mode(split):
    masks = np.zeros((5, 8, 8), np.uint8)
    for i in range(5):
        masks[i, : i + 1] = 1
    model = Threshold().train()
    model.frozen.eval()
    assert np.array_equal(predict_masks(model, split(masks), batch_size=2), masks)
    assert model.seen == [False] * 3
    assert model.training
    assert not model.frozen.training


def test_small_logits_are_upsampled_to_the_image(split):
    masks = np.zeros((2, 16, 16), np.uint8)
    masks[:, :8] = 1
    pred = predict_masks(Threshold(shrink=4), split(masks))
    assert pred.shape == masks.shape
    assert pred.dtype == np.uint8
    assert np.array_equal(pred, masks)


def test_any_callable_will_do_and_an_empty_split_gives_an_empty_map(split):
    pred = predict_masks(Threshold().forward, split(np.zeros((0, 8, 8), np.uint8)))
    assert pred.shape == (0, 8, 8)
