from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from omnifed.training.losses import segmentation_loss

YES = torch.tensor([True])


def test_by_hand() -> None:
    # Two pixels, two classes; p = (0.8, 0.2) for label 0, p = (0.4, 0.6) for label 1.
    p = torch.tensor([[0.8, 0.4], [0.2, 0.6]])
    loss, parts = segmentation_loss(p.log().view(1, 2, 1, 2), torch.tensor([[[0, 1]]]), YES, torch.tensor([True] * 2))
    entropy = -(math.log(0.8) + math.log(0.6)) / 2
    dice = 1 - (2 * 0.6 + 1) / (0.8 + 1 + 1)
    assert float(parts["ce"]) == pytest.approx(entropy)
    assert float(parts["dice"]) == pytest.approx(dice)
    assert float(loss) == pytest.approx(entropy + dice)


def test_weights_of_the_parts() -> None:
    logits, label = torch.randn(2, 2, 4, 4), torch.randint(0, 2, (2, 4, 4))
    both = YES.expand(2)
    loss, parts = segmentation_loss(logits, label, both, torch.tensor([True] * 2), ce=0.2, dice=0.8)
    torch.testing.assert_close(loss, 0.2 * parts["ce"] + 0.8 * parts["dice"])


def test_a_perfect_prediction_costs_nothing() -> None:
    label = torch.randint(0, 3, (2, 8, 8))
    logits = torch.nn.functional.one_hot(label, 3).permute(0, 3, 1, 2) * 50.0
    loss, _ = segmentation_loss(logits, label, YES.expand(2), torch.tensor([True] * 3))
    assert float(loss) == pytest.approx(0, abs=1e-6)


def test_an_absent_class_is_as_if_it_were_not_there() -> None:
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    label = torch.tensor([0, 2]).repeat(8).view(1, 4, 4)
    loss, _ = segmentation_loss(logits, label, YES, torch.tensor([True, False, True]))
    loss.backward()
    assert logits.grad is not None
    assert torch.equal(logits.grad[:, 1], torch.zeros(1, 4, 4))
    two, _ = segmentation_loss(logits[:, [0, 2]], label // 2, YES, torch.tensor([True, True]))
    torch.testing.assert_close(loss, two)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), value=st.sampled_from([3, 7, 254, 255]))
def test_unlabelled_pixels_and_images_change_nothing(seed: int, value: int) -> None:
    g = torch.Generator().manual_seed(seed)
    logits, label = torch.randn(2, 3, 4, 4, generator=g), torch.randint(0, 3, (2, 4, 4), generator=g)
    present = torch.tensor([True] * 3)
    label[1] = value
    alone, _ = segmentation_loss(logits[:1], label[:1], YES, present)
    for has_label in ([True, True], [True, False]):
        loss, _ = segmentation_loss(logits, label, torch.tensor(has_label), present)
        torch.testing.assert_close(loss, alone)


def test_no_label_at_all_is_zero_with_a_graph() -> None:
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    loss, parts = segmentation_loss(
        logits, torch.full((2, 4, 4), 255), torch.tensor([False, False]), torch.tensor([True] * 3)
    )
    loss.backward()
    assert float(loss.detach()) == float(parts["ce"]) == float(parts["dice"]) == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_a_site_with_background_only_is_finite() -> None:
    loss, _ = segmentation_loss(
        torch.randn(1, 3, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long), YES, torch.zeros(3, dtype=torch.bool)
    )
    assert float(loss) == pytest.approx(0, abs=1e-6)


def test_gradients_in_double_precision() -> None:
    logits = torch.randn(2, 3, 3, 3, dtype=torch.float64, requires_grad=True)
    label = torch.randint(0, 3, (2, 3, 3))
    label[0, 0] = 255
    present = torch.tensor([True] * 3)
    assert torch.autograd.gradcheck(lambda x: segmentation_loss(x, label, YES.expand(2), present)[0], (logits,))


def test_half_precision_logits_give_a_full_precision_loss() -> None:
    logits = torch.randn(1, 2, 4, 4, dtype=torch.bfloat16)
    loss, _ = segmentation_loss(logits, torch.zeros(1, 4, 4, dtype=torch.long), YES, torch.tensor([True] * 2))
    assert loss.dtype == torch.float32
