"""Folding: by hand, and whole networks after training."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from omnifed.models.base import SiteSpec
from omnifed.models.fold import fold
from omnifed.models.registry import build_student
from omnifed.models.spec import StudentSpec

torch.set_num_threads(1)
SITE = SiteSpec(1, 3)


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.point = nn.Conv2d(1, 1, 1, bias=False)
        self.point_norm = nn.BatchNorm2d(1, eps=0.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.point_norm(self.point(x))


def test_a_norm_is_merged_by_hand():
    pair = Pair()
    nn.init.constant_(pair.point.weight, 3.0)
    pair.point_norm.running_mean.fill_(5.0)
    pair.point_norm.running_var.fill_(4.0)
    nn.init.constant_(pair.point_norm.weight, 8.0)
    nn.init.constant_(pair.point_norm.bias, 1.0)
    merged = fold(pair)
    assert merged.point.weight.item() == 12.0  # 8 * 3 / sqrt(4)
    assert merged.point.bias.item() == -19.0  # 1 - 8 * 5 / sqrt(4)
    assert isinstance(merged.point_norm, nn.Identity)
    assert isinstance(pair.point_norm, nn.BatchNorm2d)
    assert not merged.training


def trained(spec: StudentSpec) -> nn.Module:
    """After a few steps: statistics, scales and shifts at no neutral value."""
    torch.manual_seed(0)
    model = build_student(spec, SITE)
    with torch.no_grad():
        for part in model.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.weight.uniform_(0.5, 1.5)
                part.bias.normal_(std=0.2)
    for _ in range(3):
        model(torch.randn(2, 1, 64, 64))
    return model.eval()


@pytest.mark.parametrize(
    "option", ["fusion=group", "branches=true", "stem_stride=2,head=shuffle,branches=true,se=stage"]
)
def test_a_folded_network_computes_the_same_without_norms_and_branches(option):
    model = trained(StudentSpec.parse(f"omnisegnet:alpha=0.6,beta=0.5,{option}"))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    folded = model.folded()
    assert not [part for part in folded.modules() if isinstance(part, nn.BatchNorm2d)]
    convolutions = [part for part in folded.modules() if isinstance(part, nn.Conv2d)]
    plain = build_student(StudentSpec.parse("omnisegnet:alpha=0.6,beta=0.5"), SITE)
    assert len(convolutions) == len([part for part in plain.modules() if isinstance(part, nn.Conv2d)])
    x = torch.randn(2, 1, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        want, got = model(x).logits, folded(x).logits
    assert (want - got).abs().max() < 1e-5 * max(1.0, float(want.abs().max()))
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_group_norms_stay():
    model = build_student(StudentSpec(alpha=0.6, beta=0.5, norm="group"), SITE)
    assert len([part for part in model.folded().modules() if isinstance(part, nn.GroupNorm)]) == len(
        [part for part in model.modules() if isinstance(part, nn.GroupNorm)]
    )
