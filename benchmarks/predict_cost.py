"""What does `omnifed predict` cost, process start included? Wall time and peak memory of whole processes.

    python benchmarks/predict_cost.py --model student.onnx
    python benchmarks/predict_cost.py --repeats 1 --slices 20      a look at whether it runs

Each figure is the median of whole processes, in turns, so that a busy minute hits all of them alike:
`omnifed --help`, one 256x256 PNG, and a CT of 512x512x200 as DICOM series, as packed and as plain NIfTI. The files are
made here: a body with an organ, and noise, so that they compress as real ones do. Without --model a student with random
weights is exported (needs torch); memory does not depend on what the weights are, nor does time.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

GOALS = {"image": (1.5, 295), "dicom": (None, 600), "nifti": (None, 600), "nifti packed": (None, 600)}
"""Seconds and MiB that must not be exceeded."""
SIDE = 512
LAUNCH = """
import os, sys, time
begin = time.perf_counter()
child = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, 1, 0)])
_, status, usage = os.wait4(child, 0)
print(time.perf_counter() - begin, usage.ru_maxrss)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def body(k: int, slices: int) -> np.ndarray:
    """Slice k of a made-up abdomen in HU, (512, 512) int16."""
    rows, columns = (np.mgrid[:SIDE, :SIDE] - SIDE / 2) / SIDE
    image = np.where((rows / 0.35) ** 2 + (columns / 0.45) ** 2 < 1, 0, -1000)
    image[(rows / 0.2) ** 2 + ((columns + 0.15) / 0.2) ** 2 < 1 - abs(k / slices - 0.5)] = 110
    return (image + np.random.default_rng([7, k]).normal(0, 12, image.shape)).astype(np.int16)


def write_dicom(folder: Path, slices: int) -> Path:
    """A CT series of one file a slice, 0.8 mm x 0.8 mm x 1.5 mm."""
    import pydicom
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    folder.mkdir()
    study, series, frame = (generate_uid(entropy_srcs=[name]) for name in ("study", "series", "frame"))
    for k in range(slices):
        data = pydicom.Dataset()
        data.file_meta = pydicom.dataset.FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, generate_uid(entropy_srcs=["slice", str(k)])
        data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = study, series, frame
        data.Modality, data.PatientID, data.PatientName, data.InstanceNumber = "CT", "made", "Made^Up", k + 1
        data.Rows = data.Columns = SIDE
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 1
        data.PixelSpacing, data.SliceThickness = [0.8, 0.8], 1.5
        data.ImagePositionPatient, data.ImageOrientationPatient = [-205, -205, 1.5 * k], [1, 0, 0, 0, 1, 0]
        data.RescaleSlope, data.RescaleIntercept = 1, 0
        data.PixelData = body(k, slices).tobytes()
        data.save_as(folder / f"{k:04}.dcm", enforce_file_format=True)
    return folder


def write_nifti(path: Path, slices: int) -> Path:
    """The same volume as NIfTI."""
    import nibabel as nib

    volume = np.stack([body(k, slices).T for k in range(slices)], axis=2)
    nib.save(nib.Nifti1Image(volume, np.diag([-0.8, -0.8, 1.5, 1.0])), path)
    return path


def write_png(path: Path) -> Path:
    """A grey image of 256x256."""
    from PIL import Image

    Image.fromarray(np.clip(body(5, 10)[::2, ::2] / 8 + 128, 0, 255).astype(np.uint8)).save(path)
    return path


def export(path: Path, student: str) -> Path:
    """A student with random weights, in a process of its own: torch stays out of this one."""
    code = (
        "import sys, torch; from pathlib import Path\n"
        "from omnifed.data.site import Normalisation, SiteConfig\n"
        "from omnifed.export.onnx import export_student\n"
        "from omnifed.models.registry import build_student\n"
        "from omnifed.models.spec import StudentSpec\n"
        "config = SiteConfig(name='made', modality='ct', labels={0: 'background', 1: 'liver', 2: 'spleen'},\n"
        "                    normalisation=Normalisation(kind='window'))\n"
        "student = build_student(StudentSpec.parse(sys.argv[2]), config.spec, seed=0)\n"
        "export_student(student, config, Path(sys.argv[1]), torch.zeros(2, 1, 256, 256))\n"
    )
    subprocess.run([sys.executable, "-c", code, str(path), student], check=True, stdout=subprocess.DEVNULL)
    return path


def whole_process(arguments: list[str]) -> tuple[float, float]:
    """Runs `omnifed` and returns wall seconds and peak MiB (the kernel's high-water mark of the child)."""
    program = str(Path(sys.executable).parent / "omnifed")
    # By a small process between: a child's mark begins with the memory of the process that it was forked from.
    command = [sys.executable, "-S", "-c", LAUNCH, program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"omnifed {' '.join(arguments)}: {done.stderr}")
    seconds, peak = done.stdout.split()
    return float(seconds), float(peak) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="an exported model for grey images")
    parser.add_argument(
        "--student", default="omnisegnet:compact,stem_stride=2", help="what is exported without --model"
    )
    parser.add_argument("--slices", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the figures there")
    known = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = known.model or export(folder / "student.onnx", known.student)
        inputs = {
            "image": write_png(folder / "image.png"),
            "dicom": write_dicom(folder / "series", known.slices),
            "nifti": write_nifti(folder / "ct.nii", known.slices),
            "nifti packed": write_nifti(folder / "packed.nii.gz", known.slices),
        }
        runs: dict[str, list[tuple[float, float]]] = {"--help": [], **{kind: [] for kind in inputs}}
        for _ in range(known.repeats):
            runs["--help"].append(whole_process(["--help"]))
            for kind, path in inputs.items():
                options = ["--threads", str(known.threads), "--overwrite", "--json"]
                command = ["predict", str(model), "--input", str(path), "--output", str(folder / "out"), *options]
                runs[kind].append(whole_process(command))
    report(known, runs)


def report(known: argparse.Namespace, runs: dict[str, list[tuple[float, float]]]) -> None:
    print(f"{platform.processor() or platform.machine()}, {known.threads} thread(s), {known.slices} slices of 512x512,")
    print(f"median of {known.repeats} whole processes; load {os.getloadavg()[0]:.1f}\n")
    print("| | wall s | peak MiB | goal |\n|---|---|---|---|")
    figures = {}
    for kind, pairs in runs.items():
        seconds, peak = (statistics.median(values) for values in zip(*pairs, strict=True))
        most, room = GOALS.get(kind, (None, None))
        goal = ", ".join([f"{most} s"] * (most is not None) + [f"{room} MiB"] * (room is not None)) or "-"
        figures[kind] = {"seconds": [pair[0] for pair in pairs], "peak_mib": [pair[1] for pair in pairs]}
        print(f"| {kind} | {seconds:.2f} | {peak:.0f} | {goal} |")
    if known.json:
        settings = {key: str(value) for key, value in vars(known).items()}
        known.json.write_text(json.dumps({"settings": settings, "runs": figures}, indent=1))


if __name__ == "__main__":
    main()
