"""From a machine to its profile: measures the probes, fits the latency model. Only making the probes needs torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from omnifed.data.site import Normalisation, SiteConfig
from omnifed.devices.bench import bench
from omnifed.devices.figures import Figure, Figures
from omnifed.devices.latency import LEAST_PROBES, LatencyModel, fit_latency, option_set
from omnifed.devices.machine import Machine
from omnifed.devices.measurement import Engine, Measurement
from omnifed.devices.profile import DeviceProfile
from omnifed.errors import OmniFedError
from omnifed.export.session import load
from omnifed.files import write_atomic
from omnifed.models.base import SiteSpec
from omnifed.models.scaling import architecture_key
from omnifed.models.spec import StudentSpec

Progress = Callable[[int, str, float], None]
"""Called with the number of the probe, its name, and the share of it that is done."""
UNSTEADY = "OF701"
KEPT = TypeAdapter(dict[str, Measurement])


def write_probes(
    folder: Path, students: Sequence[StudentSpec], site: SiteSpec, size: int, progress: Progress | None = None
) -> tuple[Path, ...]:
    """Exports students with random weights; files that are there already stay.

    Args:
        folder: where the ONNX files go, one a student.
        students: what to export (:func:`omnifed.devices.latency.probes`).
        site: channels (1 or 3) and classes.
        size: side of the image in pixels, a multiple of 32.
        progress: see :data:`Progress`.

    Returns:
        The files, in the order of ``students``.

    Raises:
        OmniFedError: OF713 if torch is not installed, OF102 for a size that no site could have.
    """
    if find_spec("torch") is None or find_spec("onnxscript") is None:
        raise OmniFedError(
            "OF713",
            "Making probes needs torch and onnxscript, which the base install leaves out.",
            remedy="Make them on another machine (omnifed devices probes DIR), copy the folder here, and name it with "
            "--models DIR.",
        )
    config = _site_config(site, size)
    paths = []
    for number, student in enumerate(students):
        name = architecture_key(student).replace("/", "_")
        path = folder / f"{name}_{site.channels}x{size}_{site.classes}.onnx"
        if progress:
            progress(number, path.name, 0.0)
        if not path.is_file():
            _export(student, config, path)
        paths.append(path)
    return tuple(paths)


def measure_probes(
    models: Sequence[Path], *, engine: Engine, threads: int, kept: Path, progress: Progress | None = None
) -> LatencyModel:
    """Measures exported students and fits their latency model.

    Args:
        models: ONNX files of students of one option set, size, channels and classes.
        engine, threads: of an inference.
        kept: finished measurements go there, so that an interrupted run goes on where it was; the caller removes it.
        progress: see :data:`Progress`.

    Raises:
        OmniFedError: OF712 for files that do not belong together; OF701 and what else
            :func:`omnifed.devices.bench.bench` raises.
    """
    cards = [_card(path) for path in models]
    sites = [site for _, site, _, _ in cards]
    kinds = {(site, size, str(option_set(student))) for student, site, size, _ in cards}
    if len(models) < LEAST_PROBES or len(kinds) > 1:
        raise OmniFedError(
            "OF712",
            f"A device is measured with at least {LEAST_PROBES} exported students of equal options, size, channels and "
            "classes.",
            seen=f"{len(models)} ONNX files of {len(kinds)} kinds",
            remedy="Make a folder with `omnifed devices probes DIR` and name it with --models DIR.",
        )
    done, keys = _read(kept), [f"{digest} {engine} {threads}" for _, _, _, digest in cards]

    def measure(number: int) -> None:
        path = models[number]
        done[keys[number]] = bench(path, engine=engine, threads=threads, progress=_share(progress, number, path.name))
        write_atomic(kept, json.dumps(KEPT.dump_python(done, mode="json"), indent=1).encode())

    missing = [number for number, key in enumerate(keys) if key not in done]
    _each(_each(missing, measure, patient=True), measure, patient=False)
    measured = [(student, done[key]) for (student, _, _, _), key in zip(cards, keys, strict=True)]
    return fit_latency(measured, sites[0])


def measured_profile(name: str, machine: Machine, model: LatencyModel) -> DeviceProfile:
    """The profile of this machine."""
    memory = Figure(value=machine.memory_mib, evidence="measured", source="the operating system's count")
    return DeviceProfile(
        name=name,
        title=machine.text,
        kind="cpu",
        processor=machine.text,
        cores=machine.cores,
        threads=model.threads,
        engine=f"{model.engine}, fp32",
        figures=Figures(memory_mib=memory),
        latency=model,
    )


def _site_config(site: SiteSpec, size: int) -> SiteConfig:
    from omnifed.config import parse

    labels = {label: f"label {label}" for label in range(site.classes)}
    values = {"name": "probe", "modality": "other", "labels": labels, "channels": site.channels}
    values |= {"image_size": (size, size), "normalisation": Normalisation(kind="minmax")}
    return parse(SiteConfig, values, "probes")


def _export(student: StudentSpec, config: SiteConfig, path: Path) -> None:
    import torch

    from omnifed.export.onnx import export_student
    from omnifed.models.registry import build_student

    image = torch.randn(1, config.channels, *config.image_size, generator=torch.Generator().manual_seed(0))
    export_student(build_student(student, config.spec, seed=0), config, path, image)


def _each(numbers: Sequence[int], measure: Callable[[int], None], *, patient: bool) -> list[int]:
    """Measures networks; where ``patient``, those that varied too much are returned: a disturbance may pass."""
    unsteady = []
    for number in numbers:
        try:
            measure(number)
        except OmniFedError as error:
            if error.code != UNSTEADY or not patient:
                raise
            unsteady.append(number)
    return unsteady


def _card(path: Path) -> tuple[StudentSpec, SiteSpec, tuple[int, int], str]:
    """Student, site, size and sha256 of a file. The session goes at once: a small device has no room for ten."""
    session = load(path, threads=1)
    card = session.card
    return card.student, SiteSpec(card.channels, session.classes), card.image_size, session.sha256


def _read(kept: Path) -> dict[str, Measurement]:
    try:
        return KEPT.validate_json(kept.read_bytes())
    except (OSError, ValidationError):  # nothing yet, or of another release
        return {}


def _share(progress: Progress | None, number: int, name: str) -> Callable[[float], None] | None:
    if progress is None:
        return None
    progress(number, name, 0.0)
    return lambda share: progress(number, name, share)
