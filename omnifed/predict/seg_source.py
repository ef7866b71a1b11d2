"""The images that a segmentation was made of, as highdicom wants to see them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pydicom
from pydicom.uid import generate_uid

from omnifed.data.readers.dicom_file import functional, plane_of
from omnifed.predict.refer import no_geometry, undescribed

_IDENTIFIERS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID", "SOPInstanceUID")
_TYPE_2 = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex",
    "AccessionNumber", "StudyID", "StudyDate", "StudyTime",
)  # fmt: skip
_GEOMETRY = (
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "SpacingBetweenSlices",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
)  # fmt: skip
_PARALLEL = 1e-4
"""Largest difference of a direction cosine within one series: rounding by scanners, 0.05 mm at a border of 500 mm."""


def sources(headers: Sequence[pydicom.Dataset], count: int) -> tuple[list[pydicom.Dataset], list[int]]:
    """Copies the headers with identifiers, patient, study and geometry in one form; the originals stay as they are.

    Type 2 attributes of patient and study are empty in the copies: highdicom refuses values that scanners do write.
    ``SpacingBetweenSlices`` is left out, as highdicom then computes it from the positions. Where positions are known
    and the frame of reference is not (an anonymiser took it), one is derived from the series.

    Args:
        headers: one a file; a single one for a multi-frame file.
        count: slices.

    Returns:
        The copies, and the 0-based frame of the file for each slice in order of position (all 0 without frames).

    Raises:
        OmniFedError: OF640 identifiers are missing, OF641 the slices have no common geometry.
    """
    for header in headers:
        missing = [keyword for keyword in _IDENTIFIERS if not header.get(keyword)]
        if missing:
            raise undescribed(f"{', '.join(missing)} missing")
    frames = [0] * count if len(headers) == count else list(range(count))
    pairs = list(zip(headers, frames, strict=True)) if len(headers) == count else [(headers[0], k) for k in frames]
    planes = [plane_of(header, k) for header, k in pairs]
    first = _first(headers[0])
    if any(plane is None for plane in planes):
        if count > 1:
            raise no_geometry("slices without position, orientation or pixel spacing")
        measures = _item(PixelSpacing=[1, 1], SliceThickness=None)  # highdicom wants some of multi-frame images
        first.SharedFunctionalGroupsSequence = [_item(PixelMeasuresSequence=[measures])]
        return [first], frames
    distances = _distances([plane for plane in planes if plane is not None])
    _check(pairs, distances)
    if not first.get("FrameOfReferenceUID"):
        first.FrameOfReferenceUID = generate_uid(entropy_srcs=["frame", str(first.SeriesInstanceUID)])
    if len(headers) == count:
        copies = [first, *(_copy(header, first) for header in headers[1:])]
        for copy, header in zip(copies, headers, strict=True):
            _place(copy, [(header, 0)])
            copy.ImageOrientationPatient = first.ImageOrientationPatient
        return copies, frames
    order = sorted(frames, key=lambda k: (distances[k], k))
    _place(first, [(headers[0], k) for k in order])
    return [first], order


def patient_and_study(header: pydicom.Dataset) -> pydicom.Dataset:
    """The type 2 attributes of patient and study as the image has them, empty where it has none."""
    values = pydicom.Dataset()
    for keyword in _TYPE_2:
        if keyword in header:
            values[keyword] = header[keyword]
        else:
            setattr(values, keyword, None)
    return values


def _first(header: pydicom.Dataset) -> pydicom.Dataset:
    copy = pydicom.Dataset()
    left_out = {*_GEOMETRY, *_TYPE_2, *(() if header.get("FrameOfReferenceUID") else ("FrameOfReferenceUID",))}
    for element in header:
        if element.keyword not in left_out and not element.tag.is_private and element.tag.group != 0x7FE0:
            copy[element.tag] = element  # shared with the header: never assigned to
    for keyword in _TYPE_2:
        setattr(copy, keyword, None)
    return copy


def _copy(header: pydicom.Dataset, first: pydicom.Dataset) -> pydicom.Dataset:
    copy = pydicom.Dataset()
    for keyword in (*_IDENTIFIERS, "Rows", "Columns"):
        setattr(copy, keyword, header[keyword].value)
    copy.FrameOfReferenceUID = header.get("FrameOfReferenceUID") or first.FrameOfReferenceUID
    return copy


def _place(copy: pydicom.Dataset, pairs: Sequence[tuple[pydicom.Dataset, int]]) -> None:
    """Writes the geometry both as single-frame and as multi-frame images have it: highdicom chooses by SOP class."""
    header, k = pairs[0]
    orientation = functional(header, k, "PlaneOrientationSequence", "ImageOrientationPatient")
    measures = _item(
        PixelSpacing=functional(header, k, "PixelMeasuresSequence", "PixelSpacing") or header.get("ImagerPixelSpacing"),
        SliceThickness=functional(header, k, "PixelMeasuresSequence", "SliceThickness"),
    )
    positions = [functional(header, k, "PlanePositionSequence", "ImagePositionPatient") for header, k in pairs]
    copy.ImagePositionPatient, copy.ImageOrientationPatient = positions[0], orientation
    copy.PixelSpacing, copy.SliceThickness = measures.PixelSpacing, measures.SliceThickness
    shared = _item(PlaneOrientationSequence=[_item(ImageOrientationPatient=orientation)])
    shared.PixelMeasuresSequence = [measures]
    copy.SharedFunctionalGroupsSequence = [shared]
    copy.PerFrameFunctionalGroupsSequence = [
        _item(PlanePositionSequence=[_item(ImagePositionPatient=position)]) for position in positions
    ]


def _distances(planes: Sequence[np.ndarray]) -> list[float]:
    """Positions along the normal of the first slice in mm."""
    normal = np.cross(planes[0][:, 1], planes[0][:, 0])
    return [float(plane[:, 2] @ normal / np.linalg.norm(normal)) for plane in planes]


def _check(pairs: Sequence[tuple[pydicom.Dataset, int]], distances: Sequence[float]) -> None:
    turned = [functional(header, k, "PlaneOrientationSequence", "ImageOrientationPatient") for header, k in pairs]
    if np.ptp(np.array(turned, float), axis=0).max() > _PARALLEL:
        raise no_geometry("slices of several orientations")
    if len(set(distances)) < len(distances):
        raise no_geometry("two slices at one position")


def _item(**values: Any) -> pydicom.Dataset:
    item = pydicom.Dataset()
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return item
