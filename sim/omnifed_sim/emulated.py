"""A site on a device that is not there: refuses what would not fit into its memory, scales what is measured here.

Nothing is throttled: CPU quotas make runs below 100 ms bimodal. Training and inference run at this machine's speed, the
virtual clock (:mod:`omnifed_sim.emulation`) and the scaled measurements say what the device would take.
"""

from __future__ import annotations

import statistics
import zlib

import numpy as np

from omnifed.devices.measurement import Estimate, Measurement
from omnifed.devices.profile import DeviceProfile, load_profile
from omnifed.errors import OmniFedError
from omnifed.federation.executor import Executor
from omnifed.federation.replies import BenchReply, FailedReply, Reply
from omnifed.federation.tasks import BenchTask, EvaluateTask, ExportTask, FitTask, Task, TrialTask
from omnifed.models import scaling
from omnifed.models.base import SiteSpec
from omnifed.models.spec import StudentSpec
from omnifed.states import State
from omnifed_client.executor import SiteExecutor
from omnifed_sim.emulation import Emulation

PROCESS_MIB = 300
"""Of a process with torch loaded, as measured on x86-64."""
COPIES = 2
"""Bytes that training holds per byte of all layers' outputs: 1.3 to 2.6 where it was measured (torch 2.13 on a CPU, 3.5
to 870 MiB of outputs an image)."""
NOISE = 0.03
"""Standard deviation of the logarithm of an emulated time: what an idle machine shows between two measurements."""
MIB = 2**20


def emulated(executor: SiteExecutor, emulation: Emulation) -> Executor:
    """The executor of a site on the device that its conditions name; the same one where they name none.

    Raises:
        OmniFedError: OF710 for an unknown device.
    """
    device = emulation.of(executor.data.config.name).device
    return EmulatedExecutor(executor, load_profile(device), emulation.seed) if device else executor


class EmulatedExecutor:
    """A site's executor on another device.

    Args:
        executor: the site's own.
        profile: of the device.
        seed: of the noise of measured times.
    """

    def __init__(self, executor: SiteExecutor, profile: DeviceProfile, seed: int = 0) -> None:
        self.executor, self.profile, self.seed = executor, profile, seed
        self.site, self.spec = executor.data.config.name, executor.data.config.spec
        images = executor.data.train.images
        self.size = int(images.shape[2]), int(images.shape[3])

    def execute(self, task: Task, state: State) -> tuple[Reply, State]:
        """Does one task as the device would; OF761 as a reply where it needs more memory than the device has."""
        try:
            self._check(task)
        except OmniFedError as error:
            return FailedReply(id=task.id, site=self.site, code=error.code, rule=error.rule), {}
        reply, upload = self.executor.execute(task, state)
        if isinstance(reply, BenchReply) and isinstance(task, BenchTask):
            return self._scaled(task, reply), upload
        return reply, upload

    def _check(self, task: Task) -> None:
        if isinstance(task, FitTask | TrialTask):
            need = training_mib(task.student, self.spec, self.size, task.train.batch_size)
        elif isinstance(task, BenchTask):
            need = max(self._estimate(student).peak_mib for student in task.students)
        elif isinstance(task, EvaluateTask | ExportTask):
            need = self._estimate(task.student).peak_mib
        else:
            return
        if need > self.profile.memory_mib:
            raise OmniFedError(
                "OF761",
                f"What an emulated device trains or measures must fit into its memory ({self.profile.name}).",
                seen=f"{need:.0f} MiB of {self.profile.memory_mib:.0f} MiB",
                remedy="Take a smaller student, batch or image size, or another device in the emulation's file.",
            )

    def _estimate(self, student: StudentSpec) -> Estimate:
        return self.profile.estimate(student, self.spec, self.size)

    def _scaled(self, task: BenchTask, reply: BenchReply) -> BenchReply:
        """Times of this machine's CPU by one factor for all networks, so that they keep this machine's pattern."""
        pairs = list(zip(map(self._estimate, task.students), reply.measurements, strict=True))
        factor = statistics.median(estimate.p50_ms / _work(measured) for estimate, measured in pairs)
        return reply.model_copy(
            update={
                "device": self.profile.title[:200],
                "memory_mib": self.profile.memory_mib,
                "measurements": tuple(self._on_device(estimate, measured, factor) for estimate, measured in pairs),
            }
        )

    def _on_device(self, estimate: Estimate, measured: Measurement, factor: float) -> Measurement:
        key = [self.seed, zlib.crc32(self.site.encode()), zlib.crc32(measured.network.encode())]
        noise = float(np.exp(NOISE * np.random.default_rng(key).standard_normal()))
        p50 = _work(measured) * factor * noise
        return measured.model_copy(
            update={
                "p50_ms": p50,
                "p95_ms": p50 * estimate.p95_ms / estimate.p50_ms,
                "cpu_ms": p50,
                "load_ms": measured.load_ms * factor,
                "peak_mib": estimate.peak_mib,
                "energy_mj": None,
                "evidence": "modelled",
            }
        )


def training_mib(student: StudentSpec, site: SiteSpec, size: tuple[int, int], batch: int) -> float:
    """Modelled peak memory of training: process + 16 bytes a parameter + :data:`COPIES` x batch x all layers' outputs.

    The 16 bytes are weight, gradient and AdamW's two moments; all in float32.

    Args:
        student: the network.
        site: its channels and classes.
        size: height and width of the images in pixels.
        batch: images a step.
    """
    outputs = sum(
        sum(layer.outputs) * ((size[0] // layer.divisor) * (size[1] // layer.divisor) if layer.divisor else 1)
        for layer in scaling.layers(student, site)
        if layer.kind != "norm"
    )
    return PROCESS_MIB + (16 * scaling.costs(student, site, size).params + COPIES * batch * 4 * outputs) / MIB


def _work(measured: Measurement) -> float:
    """CPU time where it is known: it does not count what other programs took."""
    return measured.cpu_ms or measured.p50_ms
