"""Hospitals with slow machines, thin lines and bad days, on a virtual clock.

    [default]
    bandwidth_mbps = 100
    [sites.chaos_ct]
    speed = 0.25            # a quarter of the speed
    device = "jetson-nano"  # it has this device's speed and memory (a profile's name or TOML file)
    dropout = 0.1           # gone in one of ten rounds, before it works
    lateness_s = [0, 120]   # something else delays it by up to two minutes
    step_seconds = 0.2      # a training step takes this at speed 1; without it, what the work takes here

With ``step_seconds`` the clock is the same on every machine, else it scales what is measured. Nothing sleeps.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field, field_validator

from omnifed.config import Frozen, load_toml
from omnifed.devices.profile import load_profile
from omnifed.federation.tasks import FitTask, Task, TeachTask, TrialTask

if TYPE_CHECKING:
    from omnifed.transport.inprocess import Delivery


class Conditions(Frozen):
    """One site's circumstances.

    Attributes:
        speed: factor on the speed of its work.
        device: name or TOML file of a device profile, "" for this machine. Its speed relative to one thread of the
            reference device of :mod:`omnifed.devices.latency` is a further factor; what does not fit into its memory
            is refused, and what it measures is scaled (:mod:`omnifed_sim.emulated`).
        bandwidth_mbps: megabits a second, each way.
        dropout: probability to be gone in a round of training or a trial.
        lateness_s: a further delay of a round of training or a trial, uniform between these seconds.
        step_seconds: seconds of one optimiser step at speed 1; None: what the work takes on this machine.
    """

    speed: float = Field(1.0, gt=0)
    device: str = ""
    bandwidth_mbps: float = Field(1000.0, gt=0)
    dropout: float = Field(0.0, ge=0, le=1)
    lateness_s: tuple[float, float] = (0.0, 0.0)
    step_seconds: float | None = Field(None, gt=0)

    @field_validator("lateness_s")
    @classmethod
    def _ordered(cls, bounds: tuple[float, float]) -> tuple[float, float]:
        if not 0 <= bounds[0] <= bounds[1] < float("inf"):
            raise ValueError("lateness_s must be [low, high] with 0 <= low <= high")
        return bounds


class Emulation(Frozen):
    """Circumstances of all sites.

    Attributes:
        seed: of drop-outs and lateness; each is drawn from (seed, round or trial, site, attempt) alone.
        default: of every site, for what ``sites`` does not say.
        sites: by registered name.
    """

    seed: int = Field(0, ge=0)
    default: Conditions = Conditions()
    sites: dict[str, Conditions] = {}

    def of(self, site: str) -> Conditions:
        """The conditions of one site: the default's, overridden by its own."""
        own = self.sites.get(site)
        return self.default.model_copy(update=own.model_dump(exclude_unset=True)) if own else self.default


def load(path: Path) -> Emulation:
    """Reads an emulation from TOML.

    Raises:
        OmniFedError: OF101 if it cannot be read, OF102 with the key that is wrong.
    """
    return load_toml(Emulation, path)


class VirtualClock:
    """The schedule of an emulation, for :class:`omnifed.transport.inprocess.InProcessGrid`.

    Only rounds of training and trials drop out or are late: a campaign's other tasks are repeated by hand in life, too.

    Raises:
        OmniFedError: OF710 for an unknown device.
    """

    def __init__(self, emulation: Emulation) -> None:
        self.emulation = emulation
        devices = {own.device for own in (emulation.default, *emulation.sites.values())}
        self._speeds = {device: load_profile(device).speed if device else 1.0 for device in devices}

    def drops_out(self, delivery: Delivery) -> bool:
        """Whether the site is gone before it works."""
        if not isinstance(delivery.task, FitTask | TrialTask):
            return False
        return bool(self._draws(delivery)[0] < self.emulation.of(delivery.site).dropout)

    def seconds(self, delivery: Delivery, bytes_up: int, worked_s: float) -> float:
        """Both transfers, the work at the site's speed, and its lateness.

        Args:
            delivery: what was sent to whom.
            bytes_up: size of the reply.
            worked_s: what the work took on this machine.
        """
        own = self.emulation.of(delivery.site)
        steps = _steps(delivery.task)
        work = worked_s if own.step_seconds is None or steps is None else steps * own.step_seconds
        transfer = (delivery.bytes_down + bytes_up) * 8 / (own.bandwidth_mbps * 1e6)
        low, high = own.lateness_s
        trains = isinstance(delivery.task, FitTask | TrialTask)
        late = low + self._draws(delivery)[1] * (high - low) if trains else 0.0
        return float(work / (own.speed * self._speeds[own.device]) + transfer + late)

    def _draws(self, delivery: Delivery) -> np.ndarray:
        task = delivery.task
        turn = task.round if isinstance(task, FitTask) else zlib.crc32(task.id.encode()) if task else 0
        key = [self.emulation.seed, turn, zlib.crc32(delivery.site.encode()), delivery.attempt]
        return np.random.default_rng(key).random(2)


def _steps(task: Task | None) -> int | None:
    if isinstance(task, FitTask | TrialTask):
        return task.train.steps
    return task.teacher.train.steps if isinstance(task, TeachTask) else None
