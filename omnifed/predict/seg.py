"""Masks as DICOM SEG, made by highdicom. Runs in the process that reads: headers come from outside."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pydicom
from pydicom.uid import generate_uid

from omnifed.config import Frozen
from omnifed.errors import OmniFedError
from omnifed.export.card import NOTICE
from omnifed.predict.codes import concept
from omnifed.predict.refer import undescribed
from omnifed.predict.seg_source import patient_and_study, sources

_MAKER = "OmniFed"
_SERIES_NUMBER = 1000
"""Above the numbers that scanners give, so that a viewer lists the segmentation last."""


class SegModel(Frozen):
    """What made the masks.

    Attributes:
        version: version of the framework that exported the model.
        sha256: hex digest of the model's file.
    """

    version: str
    sha256: str


def seg_bytes(
    headers: Sequence[pydicom.Dataset],
    masks: np.ndarray,
    *,
    labels: dict[int, str],
    model: SegModel,
    series_description: str = "OmniFed segmentation",
) -> bytes:
    """Makes one DICOM SEG for a series or a file.

    Binary segments without overlap, one bit a pixel: every viewer reads them, and they need an eighth of the memory of
    a label map (supplement 243, which few read yet). Frames without a pixel of their segment are left out. Patient,
    study and frame of reference are those of the images, and every image is referred to. A slice is where its image
    is; orientations that differ by less than 1e-4 within the series become that of the first image.

    Args:
        headers: the images' headers, one a file, each belonging to the mask at its place; for a multi-frame file a
            single one.
        masks: (n, H, W) uint8 label ids, may be memory-mapped; the frames of a multi-frame file in the order of
            :func:`omnifed.data.readers.dicom.read`, which is by position.
        labels: label id to name, ids 0..K-1; 0 is the background and becomes no segment.
        model: what made the masks.
        series_description: of the new series; 64 characters at most are kept.

    Returns:
        The file.

    Raises:
        OmniFedError: OF640 the headers do not describe an image, OF641 slices without a common
            geometry.
        ValueError: masks that fit neither the headers nor the labels.
    """
    if masks.ndim != 3 or len(headers) not in (1, len(masks)) or sorted(labels) != list(range(len(labels))):
        raise ValueError(f"masks {masks.shape} for {len(headers)} headers and labels {sorted(labels)}")
    top = max(int(mask.max()) for mask in masks)
    if top not in labels:
        raise ValueError(f"masks hold {top}, labels {sorted(labels)}")
    images, order = sources(headers, len(masks))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # highdicom's warnings quote values of the patient
            segments = _segments(labels, model)
            seg = _segmentation(images, masks, segments, model, _text(series_description), blank=top == 0)
            _number_frames(seg, order)
            _mend_measures(seg)
            seg.update(patient_and_study(headers[0]))
            file = io.BytesIO()
            seg.save_as(file)
    except (OmniFedError, MemoryError):
        raise
    except Exception as error:  # highdicom refuses headers with whatever it stumbles over
        raise undescribed(type(error).__name__) from None
    return file.getvalue()


def _segmentation(
    images: list[pydicom.Dataset],
    masks: np.ndarray,
    segments: list[Any],
    model: SegModel,
    description: str,
    *,
    blank: bool,
) -> Any:
    import highdicom

    # A SEG has at least one frame: without any foreground the first slice stands for the whole series.
    shown = 1 if blank and len(images) > 1 else len(images)
    return highdicom.seg.Segmentation(
        images[:shown],
        masks[:shown] if len(images) > 1 else masks,
        "BINARY",
        segments,
        series_instance_uid=generate_uid(None),
        series_number=_SERIES_NUMBER,
        sop_instance_uid=generate_uid(None),
        instance_number=1,
        manufacturer=_MAKER,
        manufacturer_model_name=_MAKER,
        software_versions=_text(model.version),
        device_serial_number=model.sha256,
        content_description=NOTICE,
        content_label="SEGMENTATION",
        series_description=description,
        omit_empty_frames=not blank,
        further_source_images=images[shown:],
        specific_character_set="ISO_IR 192",
    )


def _segments(labels: dict[int, str], model: SegModel) -> list[Any]:
    import highdicom
    from pydicom.sr.codedict import codes

    algorithm = highdicom.AlgorithmIdentificationSequence(
        _MAKER,
        codes.DCM.ArtificialIntelligence,
        _text(model.version),
        source=_MAKER,
        parameters={"model_sha256": model.sha256},
    )
    segments = []
    for label in range(1, len(labels)):
        what = concept(labels[label])
        segment = highdicom.seg.SegmentDescription(
            segment_number=label,
            segment_label=_text(labels[label]),
            segmented_property_category=what.category,
            segmented_property_type=what.kind,
            algorithm_type="AUTOMATIC",
            algorithm_identification=algorithm,
        )
        segment.SegmentDescription = f"{NOTICE}; model sha256 {model.sha256}"
        if what.side is not None:
            side = highdicom.sr.CodedConcept.from_code(what.side)
            segment.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [side]
        segments.append(segment)
    return segments


def _number_frames(seg: pydicom.Dataset, order: list[int]) -> None:
    """Refers to the frames of a multi-frame file by their place in the file; highdicom saw them by position."""
    if order == sorted(order):
        return
    sources = {
        id(source): source  # the frames of several segments share one
        for item in seg.PerFrameFunctionalGroupsSequence
        for source in item.DerivationImageSequence[0].SourceImageSequence
    }
    for source in sources.values():
        source.ReferencedFrameNumber = order[int(source.ReferencedFrameNumber) - 1] + 1


def _mend_measures(seg: pydicom.Dataset) -> None:
    """Leaves pixel measures only where highdicom reads them again: with positions and a thickness, even if empty."""
    shared = seg.SharedFunctionalGroupsSequence[0]
    if "FrameOfReferenceUID" not in seg:
        shared.pop("PixelMeasuresSequence", None)
    elif "SliceThickness" not in shared.PixelMeasuresSequence[0]:
        shared.PixelMeasuresSequence[0].SliceThickness = None


def _text(value: str) -> str:
    """As DICOM's long string takes it: 64 characters, no backslash, nothing that is not printed."""
    return re.sub(r"[\\\x00-\x1f\x7f]", " ", value).strip()[:64]
