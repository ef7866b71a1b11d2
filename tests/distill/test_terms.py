from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from omnifed.distill.spec import LAMBDA, TERMS
from omnifed.distill.terms import (
    TABLE,
    _relations,
    attention_term,
    context_term,
    features_term,
    logits_term,
    relation_term,
)

PAIRS = {name: term.function for name, term in TABLE.items()}
PAIRS["logits"] = lambda s, t: logits_term(s, t, 4.0)
FEATURES = [name for name in TERMS if name != "logits"]


def maps(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_the_table_and_the_published_weights_name_the_same_terms() -> None:
    assert tuple(TABLE) == TERMS
    assert all(set(weights) == set(TERMS) for weights in LAMBDA.values())


@pytest.mark.parametrize("name", TERMS)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), batch=st.integers(1, 5), channels=st.integers(2, 6), side=st.integers(1, 9))
def test_zero_at_a_perfect_match_and_positive_otherwise(
    name: str, seed: int, batch: int, channels: int, side: int
) -> None:
    student = maps(seed, batch, channels, side, side)
    assert float(PAIRS[name](student, student.clone())) == 0
    other = float(PAIRS[name](student, maps(seed + 1, batch, channels, side, side)))
    assert math.isfinite(other)
    assert other >= 0


def test_logits_by_hand() -> None:
    # softmax(t) = (0.8, 0.2), softmax(s) = (0.5, 0.5): KL = 0.8 ln 1.6 + 0.2 ln 0.4
    teacher = torch.tensor([math.log(4.0), 0.0]).view(1, 2, 1, 1)
    kl = 0.8 * math.log(1.6) + 0.2 * math.log(0.4)
    assert float(logits_term(torch.zeros(1, 2, 1, 1), teacher, 1.0)) == pytest.approx(kl, abs=1e-6)
    # T = 2 with doubled logits: the same distributions, times T^2; the number of pixels does not matter.
    wide = (2 * teacher).expand(3, 2, 5, 7)
    assert float(logits_term(torch.zeros(3, 2, 5, 7), wide, 2.0)) == pytest.approx(4 * kl, abs=1e-5)


def test_features_by_hand() -> None:
    # z(F) and z(-F): difference 2 z, mean square 4 (less the 1e-5 in the variance)
    teacher = maps(0, 2, 3, 8, 8)
    assert float(features_term(-teacher, teacher)) == pytest.approx(4, abs=1e-3)


def test_attention_by_hand() -> None:
    student = torch.tensor([3.0, 0.0]).view(1, 1, 1, 2)
    teacher = torch.tensor([[0.0, 1.0], [0.0, -2.0]]).view(1, 2, 1, 2)
    assert float(attention_term(student, teacher)) == pytest.approx(2)


def test_context_by_hand() -> None:
    # Two orthogonal regions against two equal ones: affinities differ by 1 in 2 of 4 places, Var = 1/4
    teacher = torch.eye(2).view(1, 2, 1, 2)
    student = torch.ones(1, 2, 1, 2)
    assert float(context_term(student, teacher)) == pytest.approx(0.5 / (0.25 + 1e-4), rel=1e-5)


def test_relation_by_hand() -> None:
    # A right triangle (3, 4, 5) in the feature plane: mean distance 4, right angle at the origin
    near, cosine = _relations(torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]]))
    torch.testing.assert_close(near, torch.tensor([[0, 3, 4], [3, 0, 5], [4, 5, 0]]) / 4.0)
    torch.testing.assert_close(cosine[0, 1, 2], torch.tensor(0.0), atol=1e-6, rtol=0)
    torch.testing.assert_close(cosine[1, 0, 2], torch.tensor(0.6))
    torch.testing.assert_close(cosine[2, 0, 1], torch.tensor(0.8))


def test_relation_equals_plain_differences() -> None:
    points = maps(3, 20, 7)
    apart = points[None] - points[:, None]
    distance = apart.norm(dim=-1)
    unit = apart / distance.clamp_min(1e-9)[..., None]
    near, cosine = _relations(points)
    torch.testing.assert_close(near, distance / (distance.sum() / (20 * 19)))
    torch.testing.assert_close(cosine, unit @ unit.transpose(1, 2), atol=1e-5, rtol=1e-5)


def test_relation_is_the_same_each_time() -> None:
    student, teacher = maps(0, 8, 4, 8, 8), maps(1, 8, 6, 16, 16)
    assert torch.equal(relation_term(student, teacher), relation_term(student, teacher))


@pytest.mark.parametrize("name", FEATURES)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6), factor=st.floats(0.5, 50))
def test_scaling_either_side_changes_nothing(name: str, seed: int, factor: float) -> None:
    student, teacher = maps(seed, 3, 4, 8, 8), maps(seed + 1, 3, 4, 8, 8)
    expected = PAIRS[name](student, teacher)
    torch.testing.assert_close(PAIRS[name](student * factor, teacher), expected, rtol=2e-3, atol=1e-5)
    torch.testing.assert_close(PAIRS[name](student, teacher * factor), expected, rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["logits", "features", "relation"])
def test_shifting_changes_nothing(name: str) -> None:
    """A constant on all logits of a pixel, on a channel of features, on all points of the relation."""
    student, teacher = maps(0, 3, 4, 8, 8), maps(1, 3, 4, 8, 8)
    shift = 5.0 if name == "logits" else maps(2, 1, 4, 1, 1)
    torch.testing.assert_close(
        PAIRS[name](student + shift, teacher), PAIRS[name](student, teacher), rtol=1e-3, atol=1e-5
    )


@pytest.mark.parametrize("name", ["attention", "relation", "context"])
def test_rotating_the_feature_space_changes_nothing(name: str) -> None:
    student, teacher = maps(0, 3, 4, 8, 8), maps(1, 3, 6, 8, 8)
    turn = torch.linalg.qr(maps(2, 4, 4)).Q
    turned = torch.einsum("dc,bchw->bdhw", turn, student)
    torch.testing.assert_close(PAIRS[name](turned, teacher), PAIRS[name](student, teacher), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("value", [0.0, 1.0, 1e4])
def test_constant_maps_give_finite_values_and_gradients(name: str, value: float) -> None:
    for student, teacher in (
        (torch.full((2, 3, 4, 4), value), maps(0, 2, 3, 4, 4)),
        (maps(0, 2, 3, 4, 4), torch.full((2, 3, 4, 4), value)),
        (torch.full((2, 3, 4, 4), value), torch.full((2, 3, 4, 4), value)),
    ):
        student = student.clone().requires_grad_()
        loss = PAIRS[name](student, teacher)
        loss.backward()
        assert torch.isfinite(loss)
        assert student.grad is not None
        assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize("name", TERMS)
def test_gradients_in_double_precision(name: str) -> None:
    teacher = maps(1, 2, 3, 5, 5, dtype=torch.float64)
    student = maps(0, 2, 3, 6, 6, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: PAIRS[name](x, teacher), (student,), atol=1e-6, rtol=1e-3)


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("side", [2, 8, 24])
def test_the_student_may_have_another_grid(name: str, side: int) -> None:
    assert torch.isfinite(PAIRS[name](maps(0, 2, 3, side, side), maps(1, 2, 3, 8, 8)))


def test_a_larger_student_is_pooled_not_sampled() -> None:
    teacher = maps(0, 1, 2, 4, 4)
    larger = F.interpolate(teacher, (8, 8), mode="nearest")
    assert float(logits_term(larger, teacher, 4.0)) == pytest.approx(0, abs=1e-7)
