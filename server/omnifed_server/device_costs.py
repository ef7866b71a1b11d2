"""What each network of a search costs on each class of devices: measured at sites, or from a device's profile."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from omnifed.devices.latency import LatencyModel, fit_latency, probes
from omnifed.devices.measurement import Estimate
from omnifed.devices.profile import load_profile
from omnifed.errors import OmniFedError
from omnifed.federation.replies import BenchReply
from omnifed.models.base import SiteSpec
from omnifed.models.scaling import architecture_key
from omnifed.models.spec import PRESETS, StudentSpec
from omnifed.search.space import Network
from omnifed.search.spec import MEASURED, Target
from omnifed_server.stages import Stages

Sizes = tuple[int, int]
Devices = Sequence[Callable[[StudentSpec, SiteSpec, Sizes], Estimate]]
"""What a student costs on each device of a class."""


@dataclass(frozen=True)
class DeviceCosts:
    """Costs of all networks.

    Attributes:
        targets: with their budgets filled in.
        estimates: by target's name, then by architecture key.
    """

    targets: tuple[Target, ...]
    estimates: dict[str, dict[str, Estimate]]


def device_costs(
    stages: Stages, targets: Sequence[Target], networks: Sequence[Network], site: SiteSpec, size: Sizes
) -> DeviceCosts:
    """Costs of every network on every target.

    Args:
        stages: of the campaign: asks sites to measure their devices where a target says so.
        targets: classes of devices, each with its sites.
        networks: the space.
        site: channels and classes.
        size: of the images, in pixels.

    Raises:
        OmniFedError: OF710 for an unknown device, OF531 if too few sites measured theirs, OF769 if none of a target's
            did.
    """
    base = networks[0].student
    models = _measured(stages, targets, base, site)
    filled, estimates = [], {}
    for target in targets:
        devices = _devices(stages, target, models)

        def slowest(student: StudentSpec, devices: Devices = devices) -> Estimate:
            return max((device(student, site, size) for device in devices), key=lambda one: one.p95_ms)

        estimates[target.name] = {network.key: slowest(network.student) for network in networks}
        if not target.latency_ms:
            alpha, beta = PRESETS[target.as_fast_as]
            variant = slowest(base.model_copy(update={"alpha": alpha, "beta": beta}))
            target = target.model_copy(update={"latency_ms": math.ceil(1000 * variant.p95_ms) / 1000})
        filled.append(target)
    return DeviceCosts(tuple(filled), estimates)


def _devices(stages: Stages, target: Target, models: Mapping[str, LatencyModel]) -> Devices:
    """The profile of a target, or the models of the sites that measured for it."""
    if target.source != MEASURED:
        return [load_profile(target.source).estimate]
    sites = _where(stages, target)
    found = [models[site].predict for site in sites if site in models]
    if not found:
        raise OmniFedError(
            "OF769",
            "A class of devices that sites measure needs one site that could.",
            seen=f"{target.name}: none of {', '.join(sites)}",
            remedy="See what the sites' misses say (OF701: the machine was busy), or give the target a profile; then "
            "start the same command again: what others measured is kept.",
        )
    return found


def _measured(stages: Stages, targets: Sequence[Target], base: StudentSpec, site: SiteSpec) -> dict[str, LatencyModel]:
    """A latency model a site that measures."""
    sites = tuple(dict.fromkeys(s for t in targets if t.source == MEASURED for s in _where(stages, t)))
    if not sites:
        return {}
    students = probes(base)
    replies = stages.measure(sites, students)
    return {name: _model(reply, students, site) for name, reply in replies.items()}


def _where(stages: Stages, target: Target) -> tuple[str, ...]:
    """Sites that measure for a target: those that will deploy it; one for all where all run on one machine."""
    sites = target.sites or stages.plan.sites
    return sites[:1] if stages.plan.one_machine else sites


def _model(reply: BenchReply, students: Sequence[StudentSpec], site: SiteSpec) -> LatencyModel:
    by_key = {measured.network: measured for measured in reply.measurements}
    missing = [key for student in students if (key := architecture_key(student)) not in by_key]
    if missing:
        raise OmniFedError(
            "OF504",
            "A reply must answer the task that was sent: same id, kind, site and protocol.",
            seen=f"{reply.site} did not measure {missing[0]}",
            remedy="Install the same omnifed release at the coordinator and at the site.",
        )
    return fit_latency([(student, by_key[architecture_key(student)]) for student in students], site)
