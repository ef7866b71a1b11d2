from __future__ import annotations

import pytest
import torch
from torch import nn

from omnifed.training.optimiser import adamw, learning_rate, pack, unpack
from omnifed.training.spec import TrainSpec


def test_cosine_by_hand() -> None:
    spec = TrainSpec(steps=4, lr=1.0)
    assert [learning_rate(spec, s) for s in (0, 1, 2, 4, 9)] == pytest.approx([1, 0.8535534, 0.5, 0, 0], abs=1e-7)


def test_poly_and_warm_up_by_hand() -> None:
    spec = TrainSpec(steps=12, lr=2.0, warmup=2, schedule="poly")
    assert [learning_rate(spec, s) for s in (0, 1, 2, 7)] == pytest.approx([1, 2, 2, 2 * 0.5**0.9])


def test_constant() -> None:
    assert learning_rate(TrainSpec(schedule="constant", lr=0.5), 10**6) == 0.5


def test_rounds_make_one_curve() -> None:
    whole = TrainSpec(steps=30)
    rounds = [TrainSpec(steps=10, total_steps=30, first_step=first) for first in (0, 10, 20)]
    curve = [learning_rate(spec, spec.first_step + s) for spec in rounds for s in range(10)]
    assert curve == [learning_rate(whole, s) for s in range(30)]


def step(net: nn.Module, optimiser: torch.optim.Optimizer, seed: int) -> None:
    optimiser.zero_grad()
    net(torch.randn(4, 3, generator=torch.Generator().manual_seed(seed))).square().sum().backward()
    optimiser.step()


def test_the_state_continues_bit_for_bit() -> None:
    nets = [nn.Linear(3, 2) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    whole = adamw(dict(nets[0].named_parameters()), TrainSpec())
    for seed in range(4):
        step(nets[0], whole, seed)
    names = dict(nets[1].named_parameters())
    first = adamw(names, TrainSpec())
    step(nets[1], first, 0)
    step(nets[1], first, 1)
    state = pack(first, names)
    assert set(state) == {f"{kind}/{name}" for kind in ("step", "exp_avg", "exp_avg_sq") for name in names}
    second = adamw(names, TrainSpec())
    unpack(state, second, names)
    step(nets[1], second, 2)
    step(nets[1], second, 3)
    for name, value in nets[0].state_dict().items():
        assert torch.equal(value, nets[1].state_dict()[name])


def test_packing_copies_and_other_shapes_start_afresh() -> None:
    net = nn.Linear(3, 2)
    names = dict(net.named_parameters())
    optimiser = adamw(names, TrainSpec())
    step(net, optimiser, 0)
    state = pack(optimiser, names)
    before = state["exp_avg/weight"].clone()
    step(net, optimiser, 1)
    assert torch.equal(state["exp_avg/weight"], before)
    other = dict(nn.Linear(5, 2).named_parameters())
    fresh = adamw(other, TrainSpec())
    unpack(state, fresh, other)
    assert other["weight"] not in fresh.state
    assert other["bias"] in fresh.state
