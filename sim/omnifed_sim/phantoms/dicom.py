"""DICOM series of a phantom patient, with masks as hospitals keep them: PNG a slice for CT, one DICOM SEG for MR.

All identifiers derive from the site and the patient, all dates are fixed: equal pixels give equal bytes.
"""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path

import numpy as np
from highdicom.seg import Segmentation, SegmentDescription
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage

from omnifed_sim.phantoms.base import Phantom, Slices
from omnifed_sim.phantoms.shapes import Array

FIELD_OF_VIEW, SLICE = 390.0, 5.0
"""Width of the image and distance of the slices in mm."""
_DATE, _TIME = "20240101", "120000"
_MAKER = "OmniFed phantom (synthetic, no patient)"
_CODES = {
    "liver": codes.SCT.Liver,
    "kidney": codes.SCT.Kidney,
    "spleen": codes.SCT.Spleen,
    "lesion": codes.SCT.Lesion,
}


def write_series(phantom: Phantom, patient: str, slices: Slices, folder: Path) -> list[tuple[str, str]]:
    """Writes one patient's series and, where there are masks, its masks.

    Args:
        phantom: CT or MR.
        patient: key of the patient and name of the series' folder.
        slices: (image in native units, mask or None) in order of position.
        folder: the site, with ``images`` and ``masks``.

    Returns:
        Index entries (image, mask): a row a file for CT, a row a series for MR.
    """
    series = folder / "images" / patient
    series.mkdir(exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom warns of what the tests check
        items = [_slice(phantom, folder.name, patient, number, pair[0]) for number, pair in enumerate(slices)]
        for number, item in enumerate(items):
            item.save_as(series / f"{number:04d}.dcm", enforce_file_format=True)
        masks = [mask for _, mask in slices if mask is not None]
        if phantom.modality == "ct":
            rows = [(f"images/{patient}/{number:04d}.dcm", "") for number in range(len(items))]
            for number, mask in enumerate(masks):
                rows[number] = (rows[number][0], f"masks/{patient}_{number}.png")
                Image.fromarray(mask).save(folder / rows[number][1])
            return rows
        if not masks:
            return [(f"images/{patient}", "")]
        segmentation = _segmentation(phantom, folder.name, patient, items, np.stack(masks))
        segmentation.save_as(folder / "masks" / f"{patient}.dcm", enforce_file_format=True)
        return [(f"images/{patient}", f"masks/{patient}.dcm")]


def _uid(*words: object) -> str:
    """A UID that is a function of ``words`` (2.25 and 128 bits, PS3.5 B.2)."""
    digest = hashlib.sha256("/".join(map(str, ("omnifed-phantom", *words))).encode()).digest()
    return f"2.25.{int.from_bytes(digest[:16], 'big')}"


def _slice(phantom: Phantom, site: str, patient: str, number: int, image: Array) -> Dataset:
    ct = phantom.modality == "ct"
    item = Dataset()
    item.SOPClassUID = CTImageStorage if ct else MRImageStorage
    item.SOPInstanceUID = _uid(site, patient, "image", number)
    item.StudyInstanceUID, item.SeriesInstanceUID = _uid(site, patient, "study"), _uid(site, patient, "series")
    item.FrameOfReferenceUID, item.PositionReferenceIndicator = _uid(site, patient, "frame"), ""
    item.PatientID, item.PatientName = f"{site}-{patient}", f"PHANTOM^{patient}"
    item.PatientBirthDate = item.PatientSex = item.AccessionNumber = item.ReferringPhysicianName = ""
    item.StudyID, item.SeriesNumber, item.InstanceNumber = "1", 1, number + 1
    item.StudyDate = item.SeriesDate = item.ContentDate = item.AcquisitionDate = _DATE
    item.StudyTime = item.SeriesTime = item.ContentTime = item.AcquisitionTime = _TIME
    item.Modality, item.Manufacturer, item.BodyPartExamined = "CT" if ct else "MR", _MAKER, "ABDOMEN"
    item.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    item.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    pixel = FIELD_OF_VIEW / image.shape[0]
    item.PixelSpacing, item.SliceThickness = [f"{pixel:.6f}"] * 2, SLICE
    item.ImagePositionPatient = [-FIELD_OF_VIEW / 2, -FIELD_OF_VIEW / 2, number * SLICE]
    item.SamplesPerPixel, item.PhotometricInterpretation = 1, "MONOCHROME2"
    item.Rows, item.Columns = image.shape
    item.BitsAllocated, item.BitsStored, item.HighBit, item.PixelRepresentation = 16, 12, 11, 0
    if ct:
        item.RescaleSlope, item.RescaleIntercept, item.RescaleType = 1, -1024, "HU"
        item.WindowCenter, item.WindowWidth = 40, 400
    else:
        item.ScanningSequence, item.SequenceVariant, item.ScanOptions, item.MRAcquisitionType = "GR", "SP", "", "2D"
        item.EchoTime, item.RepetitionTime, item.EchoTrainLength = 4.6, 120, 1
    stored = np.rint(image + (1024 if ct else 0)).clip(0, 4095).astype("<u2")
    item.PixelData = stored.tobytes()
    item.file_meta = FileMetaDataset()
    item.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    item.file_meta.MediaStorageSOPClassUID = item.SOPClassUID
    item.file_meta.MediaStorageSOPInstanceUID = item.SOPInstanceUID
    return item


def _segmentation(phantom: Phantom, site: str, patient: str, items: list[Dataset], masks: NDArray[np.uint8]) -> Dataset:
    descriptions = [
        SegmentDescription(
            number,
            name,
            codes.SCT.MorphologicallyAbnormalStructure if name == "lesion" else codes.SCT.Organ,
            _CODES[name],
            "MANUAL",
        )
        for number, name in phantom.labels.items()
        if number
    ]
    made = Segmentation(
        source_images=items,
        pixel_array=masks,
        segmentation_type="BINARY",
        segment_descriptions=descriptions,
        series_instance_uid=_uid(site, patient, "masks"),
        series_number=2,
        sop_instance_uid=_uid(site, patient, "mask"),
        instance_number=1,
        manufacturer=_MAKER,
        manufacturer_model_name="phantom",
        software_versions="1",
        device_serial_number="0",
    )
    # highdicom draws this one at random and takes dates and times from the clock
    organisation = _uid(site, patient, "dimensions")
    for entry in (*made.DimensionOrganizationSequence, *made.DimensionIndexSequence):
        entry.DimensionOrganizationUID = organisation
    for equipment in made.get("ContributingEquipmentSequence", []):
        equipment.ContributionDateTime = _DATE + _TIME
    for stamp in ("InstanceCreationDate", "SeriesDate", "ContentDate"):
        setattr(made, stamp, _DATE)
    for stamp in ("InstanceCreationTime", "SeriesTime", "ContentTime"):
        setattr(made, stamp, _TIME)
    return made
