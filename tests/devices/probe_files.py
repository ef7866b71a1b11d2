"""Stand-ins of exported probes: a real, small ONNX file with a student's card, and measurements of a known law."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from small_models import convolution

from omnifed.devices.latency import MEMORY_PATTERN, TIME_PATTERN, memory_row, probes, time_row
from omnifed.devices.measurement import Measurement
from omnifed.devices.work import work
from omnifed.models.base import SiteSpec
from omnifed.models.scaling import architecture_key
from omnifed.models.spec import StudentSpec

SITE, SIZE = SiteSpec(1, 4), (32, 32)
OPTIONS = StudentSpec(stem_stride=2)


def write_files(folder: Path, count: int, options: StudentSpec = OPTIONS) -> list[Path]:
    folder.mkdir(exist_ok=True)
    paths = []
    for number, student in enumerate(probes(options)[:count]):
        card = {"omnifed": "0.1.0", "student": student.model_dump(), "modality": "other", "channels": 1}
        card |= {"labels": {i: f"label {i}" for i in range(4)}, "image_size": SIZE}
        card |= {"normalisation": {"kind": "minmax"}}
        path = folder / f"{number:02d}.onnx"
        path.write_bytes(convolution(("batch", 1, *SIZE), card=json.dumps(card)))
        paths.append(path)
    return paths


def finished(paths: list[Path], time=TIME_PATTERN) -> str:
    """The content of the file of finished measurements, for the first files."""
    rows = {}
    for path, student in zip(paths, probes(OPTIONS), strict=False):
        asked = work(student, SITE, SIZE)
        p50 = float(time_row(asked) @ time)
        values = {"network": architecture_key(student), "size": SIZE, "warmups": 10, "runs": 50, "p50_ms": p50}
        values |= {"p95_ms": 1.1 * p50, "cpu_ms": p50, "variation": 0.01, "load_ms": 1}
        values |= {"peak_mib": float(memory_row(asked) @ MEMORY_PATTERN)}
        key = f"{hashlib.sha256(path.read_bytes()).hexdigest()} ort 1"
        rows[key] = Measurement.model_validate(values).model_dump(mode="json")
    return json.dumps(rows)
