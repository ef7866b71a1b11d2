from __future__ import annotations

import pytest
import torch

from omnifed.training import precision
from omnifed.training.precision import Precision, choose

CPU = torch.device("cpu")


def test_a_configured_precision_is_taken_without_measuring() -> None:
    assert choose("fp32", CPU) == Precision("fp32", False, "as configured")
    assert choose("bf16", CPU) == Precision("bf16", True, "as configured")


def test_auto_measures_once_and_says_so() -> None:
    state = torch.get_rng_state()
    first = choose("auto", CPU)
    assert choose("auto", CPU) is first
    assert first.why.startswith("measured")
    assert torch.equal(torch.get_rng_state(), state)


def test_the_fastest_wins_only_if_it_is_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for seconds, expected in (
        ((1.0, 0.9, 0.95, 0.95), ("fp32", False)),
        ((1.0, 0.7, 0.6, 0.5), ("bf16", True)),
        ((1.0, 0.5, 2.0, 2.0), ("fp32", True)),
    ):
        times = {("fp32", False): 0, ("fp32", True): 1, ("bf16", False): 2, ("bf16", True): 3}

        class Fake:
            def __init__(
                self, option: Precision, device: torch.device, seconds: tuple[float, ...] = seconds, times: dict = times
            ) -> None:
                self.seconds = seconds[times[option.dtype, option.channels_last]]

            def step(self) -> float:
                return self.seconds

        monkeypatch.setattr(precision, "_Probe", Fake)
        chosen = precision._measured.__wrapped__("cpu")
        assert (chosen.dtype, chosen.channels_last) == expected
