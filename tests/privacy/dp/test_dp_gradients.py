"""The gradient of DP-SGD against loops and figures made by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from made_patients import made_patients
from torch import Tensor, nn

import omnifed.training.loop as loop
from omnifed.distill.omnikd import OmniKD
from omnifed.distill.spec import PUBLIC_SCALES, DistillSpec
from omnifed.errors import OmniFedError
from omnifed.models.base import Out, SiteSpec
from omnifed.models.registry import build_student
from omnifed.models.spec import StudentSpec
from omnifed.privacy.dp.gradients import PatientGradients, check_network, conv_gradients
from omnifed.privacy.dp.randomness import SecretDraws
from omnifed.privacy.dp.sampling import PatientBatches
from omnifed.states import StateFile
from omnifed.training.batch import Batch
from omnifed.training.loop import fit
from omnifed.training.objectives import distilled, supervised, with_proximal
from omnifed.training.spec import TrainSpec

KEY = bytes(range(32))
SITE = SiteSpec(1, 3)
STUDENTS = [
    StudentSpec(alpha=0.6, beta=0.5, norm="group", stem_stride=2),
    StudentSpec(alpha=0.6, beta=0.5, norm="group", fusion="depthwise", se="stage", upsample="nearest"),
    StudentSpec(alpha=0.6, beta=0.5, norm="group", stem_stride=2, head="shuffle", aspp=False, se=False),
]


class Weights(nn.Module):
    """Logits (w0 x, w1 x) of one pixel: gradients that fit on a sheet of paper."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 1, bias=False)
        nn.init.zeros_(self.conv.weight)

    def forward(self, x: Tensor) -> Out:
        return Out(self.conv(x))


def pixels(*values: float) -> Batch:
    """One patient a value, one pixel each, of class 1."""
    count = len(values)
    return Batch(
        image=torch.tensor(values).reshape(count, 1, 1, 1),
        label=torch.ones(count, 1, 1, dtype=torch.int64),
        has_label=torch.ones(count, dtype=torch.bool),
        present=torch.ones(2, dtype=torch.bool),
        index=torch.arange(count),
    )


def steps(*, sigma: float = 0.0, clip: float = 1.0, expected: float = 1.0, chunk: int = 8) -> PatientGradients:
    return PatientGradients(SecretDraws(KEY), sigma=sigma, clip=clip, expected=expected, chunk=chunk)


def gradient_of(model: nn.Module, batch: Batch, private: PatientGradients, objective: object = None) -> Tensor:
    """The flat gradient that a plain step of SGD with rate 1 takes."""
    before = torch.cat([p.detach().clone().flatten() for p in model.parameters()])
    optimiser = private.attach(model, torch.optim.SGD(model.parameters(), lr=1.0))
    optimiser.zero_grad()
    private.backward(model, objective or supervised(), batch, 0)
    optimiser.step()
    private.detach()
    after = torch.cat([p.detach().flatten() for p in model.parameters()])
    return before - after


@pytest.mark.parametrize("spec", STUDENTS, ids=lambda spec: f"{spec.fusion}-{spec.head}")
def test_gradients_by_patient_equal_a_loop_over_patients(spec: StudentSpec) -> None:
    model, draw = build_student(spec, SITE, seed=1), torch.Generator().manual_seed(0)
    batch = Batch(
        image=torch.randn(3, 1, 32, 32, generator=draw),
        label=torch.randint(0, 3, (3, 32, 32), generator=draw),
        has_label=torch.ones(3, dtype=torch.bool),
        present=torch.ones(3, dtype=torch.bool),
        index=torch.arange(3),
    )
    private = steps(clip=1e9)
    private.attach(model, torch.optim.SGD(model.parameters(), lr=1.0))
    private.backward(model, supervised(), batch, 0)
    found = {name: p.grad_sample.clone() for name, p in model.named_parameters()}
    private.detach()
    for at in range(3):
        model.zero_grad()
        rows = slice(at, at + 1)
        single = Batch(batch.image[rows], batch.label[rows], batch.has_label[rows], batch.present, batch.index[rows])
        supervised()(model, single, 0)[0].backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None
            difference = (found[name][at] - parameter.grad).norm()
            assert difference <= 1e-5 * max(1.0, float(parameter.grad.norm())), name


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=4, bias=False),
        nn.Conv2d(4, 4, (3, 1), padding=(1, 0), groups=4, bias=False),
        nn.Conv2d(4, 4, 3, padding=1, stride=2, groups=4),
        nn.Conv2d(4, 6, 3, padding=1, groups=2),
        nn.Conv2d(4, 6, 1, stride=2),
    ],
    ids=["dilated depthwise", "unequal kernel", "strided depthwise", "grouped", "strided pointwise"],
)
def test_a_convolutions_gradients_equal_autograds(layer: nn.Conv2d) -> None:
    draw = torch.Generator().manual_seed(0)
    image = torch.randn(3, 4, 9, 7, generator=draw)
    back = torch.randn(layer(image).shape, generator=draw)
    found = conv_gradients(layer, [image], back)
    for at in range(3):
        expected = torch.autograd.grad((layer(image[at : at + 1]) * back[at]).sum(), list(layer.parameters()))
        for parameter, gradient in zip(layer.parameters(), expected, strict=True):
            torch.testing.assert_close(found[parameter][at], gradient, rtol=1e-5, atol=1e-5)


def test_a_patient_moves_the_sum_by_no_more_than_the_clip() -> None:
    # Cross entropy at equal logits has the gradient (x / 2, -x / 2), Dice loss (4 x / 25, -4 x / 25) with smoothing 1:
    # 1 - (2 p + 1) / (p + 2) has -3 / (p + 2)^2 = -0.48 at p = 1/2, times dp/dz = +-1/4: 0.12 x.
    one, both = (gradient_of(Weights(), pixels(*values), steps(clip=0.5)) for values in ((0.1,), (0.1, 1e6)))
    np.testing.assert_allclose(one, [0.062, -0.062], rtol=1e-5)
    assert float((both - one).norm()) == pytest.approx(0.5, rel=1e-5)
    np.testing.assert_allclose(both - one, [0.5 / math.sqrt(2), -0.5 / math.sqrt(2)], rtol=1e-5)


def test_the_sum_is_divided_by_the_expected_number_whatever_was_drawn() -> None:
    three = gradient_of(Weights(), pixels(0.1, 0.1, 0.1), steps(expected=2.0))
    np.testing.assert_allclose(three, [0.093, -0.093], rtol=1e-5)
    np.testing.assert_allclose(gradient_of(Weights(), pixels(), steps(expected=2.0)), [0, 0])


def taught(*values: float) -> Batch:
    """As :func:`pixels`, with a teacher that gives class 1 three quarters at T = 4: logits 4 ln 3 apart."""
    logits = torch.tensor([0.0, 4 * math.log(3)]).reshape(1, 2, 1, 1).expand(len(values), 2, 1, 1)
    return replace(pixels(*values), teacher=Out(logits))


def omnikd(**changes: object) -> OmniKD:
    spec = DistillSpec(weights={"logits": 1.0}, beta=0.57, scales=PUBLIC_SCALES)
    return OmniKD(spec.model_copy(update=changes), {"bottleneck": 3}, {"bottleneck": 3})


def test_what_a_teacher_adds_is_the_gradient_of_its_term() -> None:
    # T^2 KL has the gradient T (p_s - p_t) = 4 (1/2 - 3/4) = -1 by the logit of class 1; 0.57 / 5.7 of it are 0.1.
    found = gradient_of(Weights(), taught(0.1, 0.2), steps(clip=1e9), distilled(omnikd()))
    np.testing.assert_allclose(found, [0.72 * 0.3, -0.72 * 0.3], rtol=1e-5)
    alone = gradient_of(Weights(), pixels(0.1, 0.2), steps(clip=1e9), distilled(omnikd()))
    np.testing.assert_allclose(alone, [0.62 * 0.3, -0.62 * 0.3], rtol=1e-5)


@pytest.mark.parametrize("spec", STUDENTS, ids=lambda spec: f"{spec.fusion}-{spec.head}")
def test_without_noise_and_clip_it_is_the_gradient_of_the_patients_losses(spec: StudentSpec) -> None:
    model, draw = build_student(spec, SITE, seed=1), torch.Generator().manual_seed(0)
    batch = Batch(
        image=torch.randn(3, 1, 32, 32, generator=draw),
        label=torch.randint(0, 3, (3, 32, 32), generator=draw),
        has_label=torch.ones(3, dtype=torch.bool),
        present=torch.ones(3, dtype=torch.bool),
        index=torch.arange(3),
        teacher=Out(torch.randn(3, 3, 8, 8, generator=draw)),
    )
    objective = distilled(omnikd())
    assert batch.teacher is not None
    for at in range(3):
        one = slice(at, at + 1)
        single = replace(batch, image=batch.image[one], label=batch.label[one], has_label=batch.has_label[one])
        objective(model, replace(single, teacher=Out(batch.teacher.logits[one])), 0)[0].backward()
    plain = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    model.zero_grad(set_to_none=True)
    found = gradient_of(model, batch, steps(clip=1e9, chunk=2), objective)
    assert float((found - plain).norm()) <= 1e-4 * float(plain.norm())


def test_a_patient_with_a_teacher_moves_the_sum_by_no_more_than_the_clip() -> None:
    objective = distilled(omnikd(beta=1e6))
    one, both = (gradient_of(Weights(), taught(*values), steps(clip=0.5), objective) for values in ((0.0,), (0.0, 3.0)))
    np.testing.assert_allclose(one, [0, 0], atol=1e-6)
    assert float((both - one).norm()) == pytest.approx(0.5, rel=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {"scales": {}},
        {"scales": {"logits": 0.4}},
        {"weights": {"logits": 1.0, "attention": 1.0}},
        {"weights": {"features": 1.0}},
        {"weights": {"relation": 1.0}},
    ],
    ids=["measured", "another scale", "attention", "projector", "relation"],
)
def test_what_mixes_patients_or_is_measured_on_them_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(OmniFedError, match="published scale") as caught:
        gradient_of(Weights(), taught(0.1), steps(), with_proximal(distilled(omnikd(**changes)), {}, 0.1))
    assert caught.value.code == "OF850"


def test_a_patient_without_a_usable_gradient_counts_as_zero() -> None:
    for broken in (math.nan, math.inf):
        found = gradient_of(Weights(), pixels(0.1, broken), steps())
        np.testing.assert_allclose(found, [0.062, -0.062], rtol=1e-5)


def test_patients_in_several_chunks_are_clipped_alike() -> None:
    values = (0.1, -0.3, 5.0, 0.2, -9.0)
    together, apart = (gradient_of(Weights(), pixels(*values), steps(chunk=chunk)) for chunk in (8, 2))
    np.testing.assert_allclose(together, apart, rtol=1e-6)
    np.testing.assert_allclose(together[0], 0.62 * (0.1 - 0.3 + 0.2), atol=1e-6)  # the clipped two cancel out


@pytest.mark.parametrize("batch", [pixels(), pixels(0.1, 3.0)], ids=["nobody", "two patients"])
def test_the_noise_has_the_deviation_that_was_asked_for(batch: Batch) -> None:
    wide = nn.Conv2d(1, 20_000, 1, bias=False)
    nn.init.zeros_(wide.weight)

    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.few, self.many = Weights(), wide

        def forward(self, x: Tensor) -> Out:
            return Out(self.few(x).logits + 0 * self.many(x).sum(1, keepdim=True))

    noise = gradient_of(Wide(), batch, steps(sigma=3.0, clip=0.5, expected=4.0))[2:]
    # sigma C / (q n) = 3 * 0.5 / 4; the standard error of a deviation is 1 / sqrt(2 n) of it.
    assert float(noise.std()) == pytest.approx(0.375, rel=0.02)
    assert float(noise.mean()) == pytest.approx(0, abs=0.011)


def test_fedprox_is_added_after_clip_and_noise() -> None:
    model = Weights()
    anchor = {"conv.weight": torch.tensor([-40.0, 20.0]).reshape(2, 1, 1, 1)}
    pulled = gradient_of(model, pixels(1e6), steps(clip=0.5), with_proximal(supervised(), anchor, 0.1))
    np.testing.assert_allclose(pulled, [0.5 / math.sqrt(2) + 4.0, -0.5 / math.sqrt(2) - 2.0], rtol=1e-5)


def test_networks_that_mix_patients_are_refused() -> None:
    with pytest.raises(OmniFedError) as caught:
        check_network(build_student(StudentSpec(alpha=0.6, beta=0.5), SITE))
    assert caught.value.code == "OF850"
    check_network(build_student(STUDENTS[0], SITE))


class Small(nn.Module):
    """Two convolutions with a group norm: a thousand parameters."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.body = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.GroupNorm(1, 16), nn.ReLU())
            self.head = nn.Conv2d(16, 2, 5, padding=2)

    def forward(self, x: Tensor) -> Out:
        return Out(self.head(self.body(x)))


class Stop(BaseException):
    """Ends a fit at once, as a killed process would."""


def trained(steps: int, key: bytes = KEY, checkpoint: Path | None = None, stop: int = 0) -> tuple[nn.Module, float]:
    def progress(done: int, total: int, text: str) -> None:
        if done == stop:
            raise Stop

    data = made_patients({f"p{i}": 2 for i in range(12)})
    spec = TrainSpec(steps=steps, batch_size=9, lr=2e-2, precision="fp32", seed=1)
    model, draws = Small(), SecretDraws(key)
    private = PatientGradients(draws, sigma=0.1, clip=1.0, expected=9.0, chunk=9)
    source = PatientBatches(data, spec, draws)
    result = fit(
        model,
        data,
        data,
        spec,
        supervised(),
        batches=source,
        gradients=private,
        checkpoint=StateFile(checkpoint) if checkpoint else None,
        progress=progress,
    )
    return model, result.dice


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def test_a_fit_learns_privately_and_leaves_no_hook() -> None:
    model, dice = trained(40)
    assert dice > 0.8
    assert not any(hasattr(p, "grad_sample") for p in model.parameters())
    assert not same(model, trained(40, bytes(32))[0])


def test_a_killed_fit_goes_on_with_the_same_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(loop, "CHECKPOINT_SHARE", 1.0)
    with pytest.raises(Stop):
        trained(8, checkpoint=tmp_path / "fit.ckpt", stop=5)
    assert (tmp_path / "fit.ckpt").is_file()
    assert same(trained(8, checkpoint=tmp_path / "fit.ckpt")[0], trained(8)[0])
