from __future__ import annotations

import pytest
import torch

from omnifed.distill.omnikd import OmniKD
from omnifed.distill.spec import LAMBDA, TERMS, DistillSpec
from omnifed.errors import OmniFedError
from omnifed.models.base import BOTTLENECK, Out


def outs(seed: int, channels: int = 5, teacher_channels: int = 7) -> tuple[Out, Out]:
    g = torch.Generator().manual_seed(seed)
    student = Out(
        torch.randn(2, 3, 16, 16, generator=g, requires_grad=True),
        {BOTTLENECK: torch.randn(2, channels, 4, 4, generator=g, requires_grad=True)},
    )
    teacher = Out(
        torch.randn(2, 3, 8, 8, generator=g), {BOTTLENECK: torch.randn(2, teacher_channels, 8, 8, generator=g)}
    )
    return student, teacher


def make(**values: object) -> OmniKD:
    return OmniKD(DistillSpec.model_validate(values), {BOTTLENECK: 5}, {BOTTLENECK: 7})


def test_each_term_starts_at_its_weight() -> None:
    """At the first step m_i is the term itself, so that the sum is that of the weights."""
    total, parts = make(weights=LAMBDA["ct"])(*outs(0))
    assert float(total) == pytest.approx(2.0 + 2.0 + 1.0 + 0.5 + 1.0, rel=1e-5)
    assert tuple(parts) == TERMS
    assert not any(part.requires_grad for part in parts.values())


def test_scales_are_the_mean_of_the_first_steps_and_then_stay() -> None:
    omnikd = make(weights={"logits": 2.0, "context": 1.0}, calibration_steps=3)
    assert omnikd.scales == {}
    seen = [{k: float(v) for k, v in omnikd(*outs(seed))[1].items()} for seed in range(3)]
    assert omnikd.frozen
    frozen = omnikd.scales
    for name in ("logits", "context"):
        assert frozen[name] == pytest.approx(sum(x[name] for x in seen) / 3, rel=1e-6)
    total, parts = omnikd(*outs(9))
    assert omnikd.scales == frozen
    expected = 2 * float(parts["logits"]) / frozen["logits"] + float(parts["context"]) / frozen["context"]
    assert float(total.detach()) == pytest.approx(expected, rel=1e-5)


def test_scales_travel_in_the_state() -> None:
    first, second = make(calibration_steps=2), make(calibration_steps=2)
    first(*outs(0))
    first(*outs(1))
    second.load_state_dict(first.state_dict())
    assert second.scales == first.scales
    assert second.frozen
    assert torch.equal(second(*outs(5))[0], first(*outs(5))[0])


def test_given_scales_are_frozen_from_the_start_and_others_are_measured() -> None:
    omnikd = make(weights={"logits": 1.0, "attention": 1.0}, scales={"logits": 0.5}, calibration_steps=1)
    assert omnikd.scales == {"logits": 0.5}
    _, parts = omnikd(*outs(0))
    assert omnikd.scales == {"logits": 0.5, "attention": pytest.approx(float(parts["attention"]))}


def test_evaluation_measures_nothing() -> None:
    omnikd = make().eval()
    omnikd(*outs(0))
    assert omnikd.scales == {}


def test_a_term_with_weight_zero_or_without_one_is_not_computed() -> None:
    omnikd = make(weights={"logits": 1.0, "features": 0.0})
    _, parts = omnikd(*outs(0))
    assert list(parts) == ["logits"]
    assert omnikd.projector is None
    assert omnikd.skipped == {}


def test_a_teacher_without_features_feeds_the_logits_term_and_the_rest_is_named() -> None:
    omnikd = OmniKD(DistillSpec(), {BOTTLENECK: 5}, {})
    student, teacher = outs(0)
    _, parts = omnikd(student, Out(teacher.logits))
    assert list(parts) == ["logits"]
    assert set(omnikd.skipped) == {"features", "attention", "relation", "context"}
    assert "teacher" in omnikd.skipped["context"]


def test_without_any_term_the_sum_is_zero_with_a_graph() -> None:
    omnikd = OmniKD(DistillSpec(weights={"context": 1.0}), {BOTTLENECK: 5}, {})
    student, teacher = outs(0)
    total, parts = omnikd(student, teacher)
    total.backward()
    assert float(total.detach()) == 0
    assert parts == {}


def test_a_perfect_match_is_zero_and_stays_finite() -> None:
    omnikd = OmniKD(DistillSpec(), {BOTTLENECK: 5}, {BOTTLENECK: 5})
    assert omnikd.projector is not None
    with torch.no_grad():
        omnikd.projector.weight.copy_(torch.eye(5)[:, :, None, None])
    teacher = Out(torch.randn(2, 3, 8, 8), {BOTTLENECK: torch.randn(2, 5, 8, 8)})
    total, _ = omnikd(teacher, teacher)
    assert float(total.detach()) == pytest.approx(0, abs=1e-5)


def test_gradients_reach_student_and_projector_but_never_the_teacher() -> None:
    omnikd = make()
    student, teacher = outs(0)
    teacher.logits.requires_grad_()
    teacher.features[BOTTLENECK].requires_grad_()
    omnikd(student, teacher)[0].backward()
    assert omnikd.projector is not None
    for tensor in (student.logits, student.features[BOTTLENECK], omnikd.projector.weight):
        assert tensor.grad is not None
        assert tensor.grad.abs().sum() > 0
    assert teacher.logits.grad is None
    assert teacher.features[BOTTLENECK].grad is None


def test_under_autocast_the_terms_stay_in_full_precision() -> None:
    student, teacher = outs(0)
    plain, _ = make()(student, teacher)
    with torch.autocast("cpu", torch.bfloat16):
        mixed, _ = make()(student, teacher)
    assert torch.equal(plain, mixed)


def test_other_classes_are_refused() -> None:
    student, teacher = outs(0)
    with pytest.raises(OmniFedError, match="OF350"):
        make()(student, Out(teacher.logits[:, :2], teacher.features))
