"""DICOM images made by hand, as hospitals send them: a series, an enhanced multi-frame file, an X-ray."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian, generate_uid

STUDY, SERIES, FRAME = (generate_uid(entropy_srcs=["made", name]) for name in ("study", "series", "frame"))
OBLIQUE = [0.8, 0.6, 0.0, -0.36, 0.48, 0.8]


def item(**tags: Any) -> pydicom.Dataset:
    data = pydicom.Dataset()
    for tag, value in tags.items():
        setattr(data, tag, value)
    return data


def image(shape: tuple[int, ...], name: str = "1", sop: str = CTImageStorage, **tags: Any) -> FileDataset:
    """One file of the made series, without position; ``None`` as a tag's value leaves the tag out."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = sop, ExplicitVRLittleEndian
    data = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID = sop
    data.SOPInstanceUID = meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["made", name])
    data.SpecificCharacterSet = "ISO_IR 100"
    data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = STUDY, SERIES, FRAME
    data.PatientID, data.PatientName, data.PatientSex, data.PatientBirthDate = "P7", "Müller^Ünal", "F", "19700102"
    data.StudyDate, data.StudyTime, data.AccessionNumber, data.StudyID = "20260102", "1011", "A1", "S1"
    data.Modality, data.InstanceNumber = "CT", 1
    data.Rows, data.Columns = shape[-2:]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 1
    data.PixelData = np.zeros(shape, "<i2").tobytes()
    if len(shape) == 3:
        data.NumberOfFrames = shape[0]
    for tag, value in tags.items():
        if value is None:
            data.pop(tag, None)
        else:
            setattr(data, tag, value)
    return data


def position(k: float, orientation: Sequence[float], step: float = 2.5) -> list[float]:
    """Of slice k, along the normal."""
    normal = np.cross(orientation[:3], orientation[3:])
    return [float(v) for v in np.round(np.array([-120.5, 33.25, 7.125]) + k * step * normal, 9)]


def series(
    folder: Path, places: Sequence[float], side: int = 9, orientation: Sequence[float] = OBLIQUE, **tags: Any
) -> Path:
    """A folder with one file for each multiple of 2.5 mm in ``places``."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, k in enumerate(places):
        geometry = {
            "PixelSpacing": [0.703125, 0.8125],
            "SliceThickness": 2.5,
            "ImagePositionPatient": position(k, orientation),
            "ImageOrientationPatient": list(orientation),
        }
        data = image((side, side + 1), str(number), **{**geometry, "InstanceNumber": number + 1, **tags})
        pydicom.dcmwrite(folder / f"{number:03}.dcm", data, enforce_file_format=False)
    return folder


def enhanced(path: Path, places: Sequence[float], side: int = 9, orientation: Sequence[float] = OBLIQUE) -> Path:
    """One multi-frame CT file, its frames in the order of ``places``, with orientation and spacing in every frame."""
    frames = [
        item(
            PlanePositionSequence=[item(ImagePositionPatient=position(k, orientation))],
            PlaneOrientationSequence=[item(ImageOrientationPatient=list(orientation))],
            PixelMeasuresSequence=[item(PixelSpacing=[0.703125, 0.8125], SliceThickness=2.5)],
        )
        for k in places
    ]
    data = image(
        (len(places), side, side + 1),
        "enhanced",
        EnhancedCTImageStorage,
        SharedFunctionalGroupsSequence=[item()],
        PerFrameFunctionalGroupsSequence=frames,
    )
    pydicom.dcmwrite(path, data, enforce_file_format=False)
    return path
