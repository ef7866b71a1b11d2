"""What a fit minimises: each is an :class:`omnifed.training.loop.Objective`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omnifed.training.batch import Batch
from omnifed.training.losses import segmentation_loss

if TYPE_CHECKING:
    from omnifed.distill.omnikd import OmniKD
    from omnifed.models.base import Out
    from omnifed.training.loop import Objective

Loss = tuple[Tensor, dict[str, Tensor]]


class Supervised(nn.Module):
    """Cross entropy + soft Dice, at the logits' own grid: the label is resized (nearest) where that is smaller."""

    def __init__(self, ce: float = 1.0, dice: float = 1.0) -> None:
        super().__init__()
        self.ce, self.dice = ce, dice

    def forward(self, model: nn.Module, batch: Batch, step: int) -> Loss:
        """Loss of one batch."""
        return self.of_out(model(batch.image), batch)

    def of_out(self, out: Out, batch: Batch) -> Loss:
        """Loss of the student's output."""
        return self.of_logits(out.logits, batch)

    def of_logits(self, logits: Tensor, batch: Batch) -> Loss:
        """Loss of logits (B, C, h, w)."""
        label = batch.label
        if label.shape[-2:] != logits.shape[-2:]:
            label = F.interpolate(label[:, None].float(), logits.shape[-2:], mode="nearest-exact")[:, 0].long()
        return segmentation_loss(logits, label, batch.has_label, batch.present, ce=self.ce, dice=self.dice)


class Distilled(nn.Module):
    """L_sup + beta * OmniKD; supervised alone for a batch without a teacher."""

    def __init__(self, omnikd: OmniKD) -> None:
        super().__init__()
        self.supervised, self.omnikd = Supervised(), omnikd

    def forward(self, model: nn.Module, batch: Batch, step: int) -> Loss:
        """Loss of one batch; parts of OmniKD are named ``kd_TERM``."""
        return self.of_out(model(batch.image), batch)

    def of_out(self, out: Out, batch: Batch) -> Loss:
        """Loss of the student's output."""
        loss, parts = self.supervised.of_logits(out.logits, batch)
        if batch.teacher is None:
            return loss, parts
        weighted, terms = self.omnikd(out, batch.teacher)
        parts |= {f"kd_{name}": value for name, value in terms.items()}
        return loss + self.omnikd.spec.beta * weighted, parts


class Proximal(nn.Module):
    """An objective + mu / 2 * ||w - w_global||^2 (FedProx, Li et al., MLSys 2020)."""

    def __init__(self, objective: Objective, anchor: Mapping[str, Tensor], mu: float) -> None:
        super().__init__()
        self.objective, self.mu = objective, mu
        self.anchor = {name: value.detach().clone() for name, value in anchor.items()}

    def forward(self, model: nn.Module, batch: Batch, step: int) -> Loss:
        """Loss of one batch; the added part is named ``proximal``."""
        loss, parts = self.objective(model, batch, step)
        proximal = self.penalty(model)
        return (loss, parts) if proximal is None else (loss + proximal, {**parts, "proximal": proximal.detach()})

    def penalty(self, model: nn.Module) -> Tensor | None:
        """mu / 2 * ||w - w_global||^2, without looking at any image; None where nothing of the model is anchored."""
        apart = [
            (parameter - self.anchor[name].to(parameter.device)).square().sum()
            for name, parameter in model.named_parameters()
            if parameter.requires_grad and name in self.anchor
        ]
        return self.mu / 2 * torch.stack(apart).sum() if apart else None


def supervised() -> Supervised:
    """Cross entropy + soft Dice, equally weighted: a student on its own."""
    return Supervised()


def teacher_objective() -> Supervised:
    """0.2 cross entropy + 0.8 Dice at the logits' own grid (SAMed, arXiv 2304.13785)."""
    return Supervised(ce=0.2, dice=0.8)


def distilled(omnikd: OmniKD) -> Distilled:
    """L_sup + beta * OmniKD, with the teacher's output from ``batch.teacher``."""
    return Distilled(omnikd)


def with_proximal(objective: Objective, anchor: Mapping[str, Tensor], mu: float) -> Proximal:
    """Adds FedProx's term to ``objective``.

    Args:
        objective: any objective.
        anchor: global parameters by name; names that the model does not train are left alone.
        mu: weight.
    """
    return Proximal(objective, anchor, mu)
