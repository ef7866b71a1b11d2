"""Settings of the two searches. Needs no torch."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, field_validator, model_validator

from omnifed.config import Frozen
from omnifed.devices.profile import load_profile

MEASURED = "measured"
"""A target's profile that stands for the devices of its own sites, measured there."""


class Target(Frozen):
    """A class of devices and what a student may cost there.

    Attributes:
        name: of the class; of the profile where that is not said.
        profile: a device profile's name or TOML file (:mod:`omnifed.devices.profile`), or ``measured``: the sites
            measure their own devices, and the slowest counts.
        latency_ms: budget of the 95th percentile of one image's inference, one image at a time; 0 takes what
            ``as_fast_as`` needs there.
        as_fast_as: a variant of the paper.
        memory_mib: budget of the peak memory of the process; 0 has none.
        sites: sites that deploy this class's student; empty: those that no other target names (the first such target
            gets them).
    """

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,60}$")
    profile: str = ""
    latency_ms: float = Field(0.0, ge=0)
    as_fast_as: Literal["compact", "balanced", "accurate"] = "balanced"
    memory_mib: float = Field(0.0, ge=0)
    sites: tuple[str, ...] = ()

    @property
    def source(self) -> str:
        """The profile's name or file, or :data:`MEASURED`."""
        return self.profile or self.name


def budget(text: str) -> tuple[int | None, float | None]:
    """Reads a budget: ``24`` trials, or ``30m`` minutes.

    Returns:
        Trials or None, seconds or None.

    Raises:
        ValueError: for anything else.
    """
    found = re.fullmatch(r"\s*([0-9]+)(?:\s*(m|min|minutes?|trials?))?\s*", str(text))
    if not found or int(found[1]) < 1:
        raise ValueError("a budget is a number of trials (24) or of minutes (30m)")
    minutes = (found[2] or "").startswith("m")
    return (None, 60.0 * int(found[1])) if minutes else (int(found[1]), None)


class _SearchSpec(Frozen):
    budget: str = "24"
    steps: int = Field(20, ge=1)
    fraction: float = Field(0.2, gt=0, le=1)
    seed: int = Field(0, ge=0)

    @field_validator("budget", mode="before")
    @classmethod
    def _readable(cls, value: object) -> str:
        budget(str(value))
        return str(value)


class ArchitectureSpec(_SearchSpec):
    """Settings of the architecture search.

    Attributes:
        method: ``surrogate`` (NSGA-II over draws of a Gaussian process), ``nsga2`` (modified NSGA-II) or ``random``.
        targets: classes of devices.
        alpha, beta: bounds of depth and width.
        stem_strides, fusions: options to choose between; empty takes those of the campaign's student.
        budget: trials of all fidelities, or minutes.
        steps: optimiser steps of a trial of the lowest fidelity.
        rungs: fidelities of successive halving, each ``eta`` times as long as the one before.
        eta: one in ``eta`` of the trials of a rung is followed by one of the next.
        fraction: share of each site's training patients that a trial sees.
        warm_start: trials start from slices of one shared network, which all sites train first.
        full: networks that are trained in full (all patients, all rounds' steps) after the brief trials: they teach the
            model what brief training costs large networks, and say whether brief trials can be trusted; 0 compares the
            lowest with the highest rung.
        latency_weight, params_weight, flops_weight: of the seed's scalar fitness F = Dice - l_L latency[s] -
            l_P params[M] - l_F FLOPs[G], a view on the front.
        seed: every draw derives from it.
    """

    method: Literal["surrogate", "nsga2", "random"] = "surrogate"
    targets: tuple[Target, ...] = ()
    alpha: tuple[float, float] = (0.6, 1.5)
    beta: tuple[float, float] = (0.5, 2.0)
    stem_strides: tuple[Literal[1, 2], ...] = ()
    fusions: tuple[Literal["group", "depthwise"], ...] = ()
    rungs: int = Field(2, ge=1, le=4)
    eta: int = Field(3, ge=2, le=5)
    warm_start: bool = False
    full: int = Field(4, ge=0, le=12)
    latency_weight: float = Field(0.1, ge=0)
    params_weight: float = Field(0.005, ge=0)
    flops_weight: float = Field(0.002, ge=0)

    @model_validator(mode="after")
    def _ordered(self) -> ArchitectureSpec:
        if not (0.6 <= self.alpha[0] <= self.alpha[1] <= 1.5 and 0.5 <= self.beta[0] <= self.beta[1] <= 2.0):
            raise ValueError("alpha must lie in 0.6..1.5 and beta in 0.5..2.0, low before high")
        names = [target.name for target in self.targets]
        if len(set(names)) < len(names):
            raise ValueError("name each target once")
        sites = [site for target in self.targets for site in target.sites]
        if len(set(sites)) < len(sites):
            raise ValueError("a site deploys one student: name it in one target")
        if self.warm_start and max(len(self.stem_strides), len(self.fusions)) > 1:
            raise ValueError("warm_start slices one network: name one stem_stride and one fusion")
        return self


class WeightSpec(_SearchSpec):
    """Settings of the search for OmniKD's weights.

    Attributes:
        budget: trials at each site, or minutes.
        steps: optimiser steps of a trial.
        fraction: share of each site's training patients with a mask that a trial sees.
        gamma: Dice that a second of training step is worth: F(lambda) = Dice(lambda) - gamma * seconds a step(lambda).
        seed: every draw derives from it.
    """

    budget: str = "12"
    steps: int = Field(40, ge=1)
    gamma: float = Field(0.0, ge=0)


def nested(spec: ArchitectureSpec, sites: tuple[str, ...]) -> None:
    """Checks that the students which a search may choose for these sites can be averaged.

    Raises:
        ValueError: if a target names a site that is not there, or if two targets might end in networks of which
            neither is a slice of the other.
    """
    named = [site for target in spec.targets for site in target.sites]
    strangers = sorted(set(named) - set(sites))
    if strangers:
        raise ValueError(f"targets name sites that take no part: {', '.join(strangers)}")
    classes = sum(bool(target.sites) for target in spec.targets) + bool(set(sites) - set(named))
    if classes > 1 and max(len(spec.stem_strides), len(spec.fusions)) > 1:
        raise ValueError("sites of several targets average slices of one network: name one stem_stride and one fusion")


def resolve(targets: tuple[Target, ...], sites: tuple[str, ...]) -> tuple[Target, ...]:
    """The targets with the sites that deploy them; without any, one that the sites measure."""
    if not targets:
        return (Target(name="sites", profile=MEASURED, sites=sites),)
    rest = tuple(site for site in sites if all(site not in target.sites for target in targets))
    resolved = []
    for target in targets:
        if not target.sites:
            target, rest = target.model_copy(update={"sites": rest}), ()
        resolved.append(target)
    return tuple(resolved)


def check_devices(spec: ArchitectureSpec) -> None:
    """Sees that every target's device is known before a campaign begins, not hours later.

    Raises:
        OmniFedError: OF710 for an unknown device, OF101 or OF102 for a file that is no profile.
    """
    for target in spec.targets:
        if target.source != MEASURED:
            load_profile(target.source)
