"""What networks cost on classes of devices that sites measure: the slowest counts, and somebody must have measured."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from omnifed.devices.latency import probes
from omnifed.devices.measurement import Measurement
from omnifed.errors import OmniFedError
from omnifed.federation.replies import BenchReply
from omnifed.models.base import SiteSpec
from omnifed.models.scaling import architecture_key, costs
from omnifed.models.spec import StudentSpec
from omnifed.search.space import Network
from omnifed.search.spec import MEASURED, Target
from omnifed_server.device_costs import device_costs

SITE, SIZE = SiteSpec(1, 2), (64, 64)
BASE = StudentSpec(stem_stride=2)


def reply(site: str, factor: float) -> BenchReply:
    """A machine that takes ``factor`` ms a 10 million multiply-accumulates."""
    measured = []
    for student in probes(BASE):
        ms = factor * costs(student, SITE, SIZE).macs / 1e7
        measured.append(
            Measurement(
                network=architecture_key(student),
                size=SIZE,
                warmups=10,
                runs=50,
                p50_ms=ms,
                p95_ms=ms,
                cpu_ms=ms,
                variation=0.01,
                load_ms=1,
                peak_mib=100,
            )
        )
    return BenchReply(id="t", site=site, device="made", memory_mib=1024, measurements=tuple(measured))


def found(answers: dict[str, float], targets: list[Target]) -> Any:
    plan = SimpleNamespace(sites=("north", "east"), one_machine=False)
    replies = {site: reply(site, factor) for site, factor in answers.items()}
    stages: Any = SimpleNamespace(plan=plan, measure=lambda sites, students: replies)
    students = [BASE.model_copy(update={"alpha": alpha}) for alpha in (0.6, 1.0)]
    networks = [Network(architecture_key(s), s, 1, costs(s, SITE, SIZE).macs) for s in students]
    return device_costs(stages, targets, networks, SITE, SIZE), networks


def test_the_slowest_of_the_sites_that_measured_counts() -> None:
    target = Target(name="wards", profile=MEASURED)
    slow, networks = found({"north": 1.0, "east": 3.0}, [target])
    alone, _ = found({"east": 3.0}, [target])
    assert slow.estimates == alone.estimates
    balanced = networks[1].key
    assert slow.targets[0].latency_ms == pytest.approx(slow.estimates["wards"][balanced].p95_ms, abs=1e-3)


def test_a_class_whose_only_site_could_not_measure_is_named() -> None:
    targets = [Target(name=site, profile=MEASURED, latency_ms=9, sites=(site,)) for site in ("north", "east")]
    with pytest.raises(OmniFedError, match="north: none of north") as caught:
        found({"east": 1.0}, targets)
    assert caught.value.code == "OF769"
