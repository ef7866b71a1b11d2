"""The gradient of DP-SGD, by Opacus: (sum_i g_i min(1, C / ||g_i||) + N(0, sigma^2 C^2)) / (q n), g_i of patient i.

Abadi et al., Deep Learning with Differential Privacy, CCS 2016.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
import torch.nn.functional as F
from opacus.grad_sample import GradSampleHooks
from opacus.optimizers import DPOptimizer
from opacus.validators import ModuleValidator
from torch import Tensor, nn

from omnifed.distill.spec import PUBLIC_SCALES
from omnifed.errors import OmniFedError
from omnifed.models.base import Out
from omnifed.privacy.dp.randomness import SecretDraws
from omnifed.training.batch import Batch
from omnifed.training.objectives import Distilled, Proximal, Supervised


def conv_gradients(layer: nn.Conv2d, activations: list[Tensor], backprops: Tensor) -> dict[Tensor, Tensor]:
    """Gradients of a convolution by sample.

    Opacus multiplies all output with all input channels and keeps those of equal groups: for a depthwise convolution
    as many times too much as it has channels.

    Args:
        layer: the convolution.
        activations: its input, (B, in, H, W).
        backprops: gradient of its output, (B, out, h, w).

    Returns:
        (B, *shape) for each of its parameters.
    """
    image, count, groups = activations[0], len(backprops), layer.groups
    if layer.weight.shape[:2] == (layer.in_channels, 1) and layer.stride == (1, 1) and layer.bias is None:
        return {layer.weight: _depthwise(layer, image, backprops)}
    if layer.kernel_size == (1, 1) and layer.stride == (1, 1):
        seen = image
    else:
        assert not isinstance(layer.padding, str)
        seen = F.unfold(image, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
    seen = seen.reshape(count, groups, seen.shape[1] // groups, -1)
    back = backprops.reshape(count, groups, backprops.shape[1] // groups, -1)
    found: dict[Tensor, Tensor] = {layer.weight: (back @ seen.transpose(-1, -2)).reshape(count, *layer.weight.shape)}
    if layer.bias is not None:
        found[layer.bias] = backprops.sum((2, 3))
    return found


def _depthwise(layer: nn.Conv2d, image: Tensor, backprops: Tensor) -> Tensor:
    """One product of maps a tap: unfolding would copy the image as often as there are taps, five times as slow."""
    assert not isinstance(layer.padding, str)
    (down, right), (rows, columns) = layer.padding, layer.dilation
    padded, (height, width) = F.pad(image, (right, right, down, down)), backprops.shape[2:]
    taps = [
        (padded[:, :, y * rows : y * rows + height, x * columns : x * columns + width] * backprops).sum((2, 3))
        for y in range(layer.kernel_size[0])
        for x in range(layer.kernel_size[1])
    ]
    return torch.stack(taps, -1).reshape(len(image), *layer.weight.shape)


class PatientHooks(GradSampleHooks):
    """Opacus's hooks, with :func:`conv_gradients` for convolutions."""

    GRAD_SAMPLERS = {**GradSampleHooks.GRAD_SAMPLERS, nn.Conv2d: conv_gradients}


class PatientOptimizer(DPOptimizer):
    """Opacus's optimiser with noise that nobody can foresee, and with unusable gradients left out.

    Args:
        optimiser: takes the noisy gradient.
        draws: where the noise comes from.
        options: see ``DPOptimizer``.
    """

    def __init__(self, optimiser: torch.optim.Optimizer, draws: SecretDraws, **options: Any) -> None:
        super().__init__(optimiser, **options)
        self.draws, self.at = draws, 0

    def clip_and_accumulate(self) -> None:
        """Adds the clipped gradients of a batch to ``summed_grad``; one with a NaN or an infinity counts as zero."""
        norms = torch.stack([p.grad_sample.flatten(1).norm(dim=1) for p in self.params])
        broken = ~torch.isfinite(norms).all(0)
        if broken.any():
            for parameter in self.params:
                parameter.grad_sample[broken] = 0
        super().clip_and_accumulate()

    def add_noise(self) -> None:
        """Gradient = sum + noise, added in float64: rounded once, after the noise."""
        std = self.noise_multiplier * self.max_grad_norm
        noise = self.draws.normal(self.at, sum(p.numel() for p in self.params)).mul_(std)
        for parameter, part in zip(self.params, noise.split([p.numel() for p in self.params]), strict=True):
            total = parameter.summed_grad.double() + part.view_as(parameter).to(parameter.device)
            parameter.grad = total.to(parameter.dtype)


class PatientGradients:
    """Makes the training loop's gradients under differential privacy (:class:`omnifed.training.loop.Gradients`).

    Args:
        draws: of this release.
        sigma: noise multiplier.
        clip: L2 norm to which a patient's gradient is shortened.
        expected: patients that a step takes on average, q n.
        chunk: patients whose gradients are in memory at a time.
    """

    def __init__(self, draws: SecretDraws, *, sigma: float, clip: float, expected: float, chunk: int) -> None:
        self.draws, self.sigma, self.clip, self.expected, self.chunk = draws, sigma, clip, expected, chunk
        self._hooks: PatientHooks | None = None
        self._optimiser: PatientOptimizer | None = None

    def attach(self, model: nn.Module, optimiser: torch.optim.Optimizer) -> PatientOptimizer:
        """Hooks the network, and wraps the optimiser.

        Raises:
            OmniFedError: OF850 for a network that mixes patients.
        """
        check_network(model)
        self._hooks = PatientHooks(model, loss_reduction="sum")
        self._optimiser = PatientOptimizer(
            optimiser,
            self.draws,
            noise_multiplier=self.sigma,
            max_grad_norm=self.clip,
            expected_batch_size=self.expected,
        )
        return self._optimiser

    def detach(self) -> None:
        """Takes the hooks off the network."""
        if self._hooks is not None:
            self._hooks.remove_hooks()
            self._hooks.del_grad_sample()
            self._hooks = None

    def backward(self, model: nn.Module, objective: object, batch: Batch, step: int) -> dict[str, float]:
        """Leaves the patients' gradients for the optimiser's step, which clips, sums and noises them.

        Args:
            model: the network given to :meth:`attach`.
            objective: supervised or distilled, with or without FedProx's term; that knows no patient, and is added
                after the noise.
            batch: one slice a patient; may be empty.
            step: global step.

        Returns:
            The mean loss of the patients, which is not private: it stays at the site.

        Raises:
            OmniFedError: OF850 for OmniKD with more than terms of one image at published scales.
        """
        optimiser = self._optimiser
        assert optimiser is not None
        optimiser.at = step
        optimiser.attach_step_hook(lambda _: _add_penalty(objective, model))
        own = objective.objective if isinstance(objective, Proximal) else objective
        assert isinstance(own, Supervised | Distilled)
        check_objective(own)
        total, count = 0.0, len(batch.image)
        for first in range(0, count, self.chunk):
            if first:
                _sum_up(optimiser)
            losses = _losses(own, model, batch, slice(first, first + self.chunk))
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Full backward hook")  # of the first layer: an image has no gradient
                losses.sum().backward()
            total += float(losses.detach().sum())
        if not count:
            for parameter in optimiser.params:
                parameter.grad_sample = parameter.new_zeros((0, *parameter.shape))
        return {"total": total / max(count, 1)}


def check_network(model: nn.Module) -> None:
    """Refuses a network in which one patient's image changes another one's gradient.

    Raises:
        OmniFedError: OF850 with the layer.
    """
    errors = ModuleValidator.validate(model, strict=False)
    buffers = [name for name, _ in model.named_buffers()]
    if errors or buffers:
        raise OmniFedError(
            "OF850",
            "Differential privacy needs a network without batch statistics: norm = group.",
            seen="; ".join(str(error) for error in errors) or f"buffers {', '.join(buffers[:3])}",
            remedy="Set norm = group in the student, or leave dp out.",
        )


def check_objective(objective: nn.Module) -> None:
    """Refuses what takes more from a batch than a sum over its patients.

    Raises:
        OmniFedError: OF850 for OmniKD with features, which mix patients, or with scales that are measured on them.
    """
    if not isinstance(objective, Distilled):
        return
    omnikd, spec = objective.omnikd, objective.omnikd.spec
    if omnikd.projector is not None or not set(omnikd.terms) <= PUBLIC_SCALES.keys() or spec.scales != PUBLIC_SCALES:
        raise OmniFedError(
            "OF850",
            "Differential privacy leaves of OmniKD the logits' term at its published scale.",
            seen=f"terms {', '.join(omnikd.terms)}, scales {spec.scales}",
            remedy="Use a public teacher with omnikd, or leave dp out.",
        )


def _losses(objective: Supervised | Distilled, model: nn.Module, batch: Batch, rows: slice) -> Tensor:
    """(b,) loss of each patient by himself: Dice and cross entropy of a batch would mix them."""
    logits = model(batch.image[rows]).logits
    parts = [_of_one(batch, at) for at in range(rows.start, rows.start + len(logits))]
    # Without features: a term that needs them fails instead of mixing patients.
    return torch.stack([objective.of_out(Out(one[None]), part)[0] for one, part in zip(logits, parts, strict=True)])


def _of_one(batch: Batch, at: int) -> Batch:
    one = slice(at, at + 1)
    teacher = Out(batch.teacher.logits[one]) if batch.teacher is not None else None
    return Batch(batch.image[one], batch.label[one], batch.has_label[one], batch.present, batch.index[one], teacher)


def _sum_up(optimiser: PatientOptimizer) -> None:
    optimiser.clip_and_accumulate()
    for parameter in optimiser.params:
        parameter.grad_sample = None


def _add_penalty(objective: object, model: nn.Module) -> None:
    penalty = objective.penalty(model) if isinstance(objective, Proximal) else None
    if penalty is None:
        return
    parameters = [p for p in model.parameters() if p.requires_grad]
    extras = torch.autograd.grad(penalty, parameters, allow_unused=True)
    for parameter, extra in zip(parameters, extras, strict=True):
        if parameter.grad is not None and extra is not None:
            parameter.grad += extra
