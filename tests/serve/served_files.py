"""Files that are sent to the page, and what the command line makes of them."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid


def png(path: Path | None = None) -> bytes:
    pixels = np.zeros((40, 60), np.uint8)
    pixels[5:30, 10:50] = 30
    pixels[10:20, 20:40] = 90
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    if path:
        path.write_bytes(file.getvalue())
    return file.getvalue()


def slices(folder: Path, count: int = 3) -> list[bytes]:
    """A CT series whose files are named and numbered against their positions."""
    folder.mkdir()
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    for z in range(count):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = CTImageStorage, ExplicitVRLittleEndian
        data = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
        data.SOPClassUID, data.Modality = CTImageStorage, "CT"
        data.SOPInstanceUID = meta.MediaStorageSOPInstanceUID = generate_uid()
        data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = study, series, frame
        data.PatientID, data.InstanceNumber, data.Rows, data.Columns = "P", count - z, 24, 32
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 1
        data.PixelSpacing, data.SliceThickness = [1, 1], 2
        data.ImagePositionPatient, data.ImageOrientationPatient = [0, 0, 2 * z], [1, 0, 0, 0, 1, 0]
        pixels = np.full((24, 32), -50, "<i2")
        pixels[4 : 8 + 4 * z, 4:20] = 80
        data.PixelData = pixels.tobytes()
        pydicom.dcmwrite(folder / f"{z}.dcm", data)
    return [file.read_bytes() for file in sorted(folder.iterdir())]


def by_command_line(model: Path, source: Path, folder: Path) -> list[Path]:
    code = "from omnifed.cli.app import app; app()"
    arguments = ["predict", str(model), "--input", str(source), "--output", str(folder), "--overlay", "slices"]
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True)
    return sorted(path for path in folder.rglob("*") if path.is_file())
