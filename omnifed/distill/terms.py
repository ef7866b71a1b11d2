"""The five terms of OmniKD. Each is 0 at a perfect match and takes maps of any size.

A term is a function ``(student, teacher) -> scalar`` of two maps (B, C, h, w), and its line in :data:`TABLE`. Below,
``z`` is the standardisation of each image and channel over its pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from omnifed.distill.spec import TermName

SAMPLED = 64
"""Regions whose distances and angles the relation term compares; its cost grows with the third power."""

REGIONS = 16
"""Largest side of the grid of regions whose affinities the context term compares."""

TINY = 1e-12


def to_grid(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Brings (B, C, h, w) to ``size``: mean-pooled where it is larger, bilinear where it is smaller."""
    if maps.shape[-2:] == size:
        return maps
    if maps.shape[-2] >= size[0] and maps.shape[-1] >= size[1]:
        return F.adaptive_avg_pool2d(maps, size)
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)


def standardise(maps: Tensor) -> Tensor:
    """z(): zero mean and unit variance over the pixels of each image and channel; a constant channel becomes 0."""
    centred = maps - maps.mean((-2, -1), keepdim=True)
    return centred * torch.rsqrt(centred.square().mean((-2, -1), keepdim=True) + 1e-5)


def logits_term(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 * mean over B, H, W of KL(softmax(t / T) || softmax(s / T)) (Hinton et al., 2015, arXiv 1503.02531).

    The mean is over pixels: the usual ``batchmean`` would sum them and grow with the image.

    Args:
        student: logits (B, C, h, w), brought to the teacher's grid.
        teacher: logits (B, C, h', w').
        temperature: T.
    """
    student = to_grid(student, (teacher.shape[-2], teacher.shape[-1]))
    log_s = F.log_softmax(student / temperature, dim=1)
    log_t = F.log_softmax(teacher / temperature, dim=1)
    return temperature**2 * (log_t.exp() * (log_t - log_s)).sum(1).mean()


def features_term(projected: Tensor, teacher: Tensor) -> Tensor:
    """MSE(z(W F_s), z(F_t)), W a learned 1x1 convolution (FitNets, Romero et al., ICLR 2015).

    Does not change when a channel of either side is scaled by a positive number or shifted.

    Args:
        projected: W F_s, (B, C, h, w), brought to the teacher's grid.
        teacher: F_t, (B, C, h', w').
    """
    projected = to_grid(projected, (teacher.shape[-2], teacher.shape[-1]))
    return F.mse_loss(standardise(projected), standardise(teacher))


def attention_term(student: Tensor, teacher: Tensor) -> Tensor:
    """|| Q_s / ||Q_s|| - Q_t / ||Q_t|| ||^2 with Q = mean over channels of F^2 (Zagoruyko & Komodakis, ICLR 2017).

    The mean over the batch. Does not change when either side is scaled; channels may differ in number.

    Args:
        student: features (B, C_s, h, w), brought to the teacher's grid.
        teacher: features (B, C_t, h', w').
    """
    student = to_grid(student, (teacher.shape[-2], teacher.shape[-1]))
    apart = _energy(student) - _energy(teacher)
    return apart.square().sum(1).mean()


def _energy(maps: Tensor) -> Tensor:
    return F.normalize(maps.square().mean(1).flatten(1), dim=1, eps=TINY)


def relation_term(student: Tensor, teacher: Tensor) -> Tensor:
    """Huber of distances over their mean + 2 Huber of angle cosines (RKD, Park et al., CVPR 2019).

    Over regions of the whole batch: each image is pooled to 4x4, and of all regions 64 are taken by a permutation that
    depends on their number alone. Does not change when either side is scaled, shifted or rotated in its feature space.

    Args:
        student: features (B, C_s, h, w).
        teacher: features (B, C_t, h', w').
    """
    s, t = _sampled(student), _sampled(teacher)
    if len(s) < 2:
        return student.sum() * 0
    (near_s, angle_s), (near_t, angle_t) = _relations(s), _relations(t)
    return F.huber_loss(near_s, near_t) + 2 * F.huber_loss(angle_s, angle_t)


def _sampled(maps: Tensor) -> Tensor:
    """(N, C) with N = min(64, 16 B) regions."""
    regions = F.adaptive_avg_pool2d(maps, (4, 4)).flatten(2).transpose(1, 2).flatten(0, 1)
    return regions.index_select(0, _choice(len(regions)).to(regions.device))


@lru_cache
def _choice(count: int) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(0))[:SAMPLED]


def _relations(points: Tensor) -> tuple[Tensor, Tensor]:
    """Distances (N, N) over their mean, and cosines (N, N, N) of the angle at the first point of each triple.

    Both follow from the inner products G alone: |i - j|^2 = G_ii + G_jj - 2 G_ij and
    (i - j) . (k - j) = G_ik - G_ij - G_jk + G_jj, about three times as fast as from N x N differences. G is fp64, as
    these sums cancel.
    """
    n = len(points)
    centred = (points - points.mean(0)).double()
    gram = centred @ centred.T
    square = gram.diagonal()
    distance = (square[:, None] + square[None] - 2 * gram).clamp_min(0).add(TINY).sqrt()
    across = gram[None] + ((square[:, None] - gram)[:, :, None] - gram[:, None])
    inverse = distance.reciprocal().to(points.dtype)
    cosine = across.to(points.dtype) * inverse[:, :, None] * inverse[:, None]
    off = distance * (1 - torch.eye(n, dtype=distance.dtype, device=points.device))
    return (off / (off.sum() / (n * (n - 1)))).to(points.dtype), cosine


def context_term(student: Tensor, teacher: Tensor) -> Tensor:
    """mean (A_s - A_t)^2 / Var(A_t), A the cosine affinity of the regions of one image.

    As in similarity-preserving and structured distillation (Tung & Mori, ICCV 2019; Liu et al., CVPR 2019), with at
    most 16x16 regions. The variance is that of the whole batch, so that one flat image does not dominate. Does not
    change when either side is scaled or rotated in its feature space.

    Args:
        student: features (B, C_s, h, w).
        teacher: features (B, C_t, h', w').
    """
    height, width = (min(REGIONS, student.shape[i], teacher.shape[i]) for i in (-2, -1))
    a_s, a_t = (_affinity(to_grid(maps, (height, width))) for maps in (student, teacher))
    return F.mse_loss(a_s, a_t) / (a_t.var(correction=0) + 1e-4)


def _affinity(maps: Tensor) -> Tensor:
    unit = F.normalize(maps.flatten(2), dim=1, eps=1e-6)
    return unit.transpose(1, 2) @ unit


@dataclass(frozen=True)
class Term:
    """A line of the table.

    Attributes:
        function: of (student, teacher), or (student, teacher, temperature) for logits.
        needs: what it reads: the logits, the bottleneck's features, or these after the projector.
    """

    function: Callable[..., Tensor]
    needs: Literal["logits", "features", "projected"]


TABLE: dict[TermName, Term] = {
    "logits": Term(logits_term, "logits"),
    "features": Term(features_term, "projected"),
    "attention": Term(attention_term, "features"),
    "relation": Term(relation_term, "features"),
    "context": Term(context_term, "features"),
}
