"""Which precision and memory layout training uses here: measured once a process on a tiny probe."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import nn

GAIN = 1.15
"""How much faster than fp32 in the plain layout a choice must be: below it, fp32's exactness is worth more."""


@dataclass(frozen=True)
class Precision:
    """A choice of precision.

    Attributes:
        dtype: ``bf16`` means autocast; weights, losses and the optimiser stay fp32.
        channels_last: memory layout of the images and of the convolutions.
        why: one sentence for logs.
    """

    dtype: Literal["fp32", "bf16"]
    channels_last: bool
    why: str = ""

    def __str__(self) -> str:
        return f"{self.dtype}{', channels_last' if self.channels_last else ''}"

    @property
    def memory_format(self) -> torch.memory_format:
        """The layout as torch names it."""
        return torch.channels_last if self.channels_last else torch.contiguous_format


def choose(setting: Literal["auto", "fp32", "bf16"], device: torch.device) -> Precision:
    """The precision of a fit.

    Args:
        setting: ``auto`` measures; the others are taken as they are, without a measurement, so that runs on unlike
            machines stay comparable: fp32 in the plain layout, bf16 in channels_last.
        device: where the model is.
    """
    if setting == "auto":
        return _measured(str(device))
    return Precision(setting, setting == "bf16", "as configured")


@lru_cache
def _measured(device: str) -> Precision:
    options = [Precision("fp32", False), Precision("fp32", True), Precision("bf16", False), Precision("bf16", True)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        probes = [_Probe(option, torch.device(device)) for option in options]
    times: list[list[float]] = [[] for _ in options]
    # Interleaved, so that a machine that is briefly busy slows all options alike; the first round warms up.
    for turn in range(4):
        for probe, seconds in zip(probes, times, strict=True):
            elapsed = probe.step()
            if turn:
                seconds.append(elapsed)
    medians = [statistics.median(seconds) for seconds in times]
    best = min(range(len(options)), key=medians.__getitem__)
    gain = medians[0] / medians[best]
    if gain < GAIN:
        return Precision("fp32", False, f"measured: no choice is {GAIN} times as fast as fp32")
    return Precision(options[best].dtype, options[best].channels_last, f"measured: {gain:.2f} times as fast as fp32")


class _Probe:
    """A training step of what students are made of: depthwise, pointwise and grouped convolutions with norms."""

    def __init__(self, option: Precision, device: torch.device) -> None:
        width = 48
        self.option, self.device = option, device
        self.net = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1),
            nn.Conv2d(width, width, 3, padding=1, groups=width),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 1),
            nn.MaxPool2d(2),
            nn.Conv2d(width, width, 3, padding=1, groups=2),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, 4 * width, 1),
            nn.Conv2d(4 * width, width, 1),
        ).to(device)
        self.net.to(memory_format=option.memory_format)  # type: ignore[call-overload]
        self.image = torch.randn(4, 3, 64, 64, device=device).contiguous(memory_format=option.memory_format)

    def step(self) -> float:
        self._wait()
        start = time.perf_counter()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.option.dtype == "bf16"):
            loss = self.net(self.image).float().square().mean()
        loss.backward()
        self._wait()
        return time.perf_counter() - start

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
