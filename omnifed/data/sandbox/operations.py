"""All that the reading process does: question to the function that answers it, imported when first asked for."""

from __future__ import annotations

from typing import Any

import numpy as np

Answer = tuple[dict[str, Any], list[np.ndarray]]
"""What an operation gives: a head for JSON, and arrays."""

OPERATIONS = {
    "dicom head": "omnifed.data.readers.dicom_file:head",
    "dicom frames": "omnifed.data.readers.dicom_file:decoded",
    "nifti head": "omnifed.data.readers.nifti:head",
    "nifti slices": "omnifed.data.readers.nifti:slices",
    "nifti mask": "omnifed.data.readers.nifti_mask:masks",
    "nifti values": "omnifed.data.readers.nifti_mask:values",
    "nifti label head": "omnifed.data.readers.nifti:label_head",
    "raster pages": "omnifed.data.readers.raster_file:pages",
    "raster values": "omnifed.data.readers.raster_file:values",
    "seg mask": "omnifed.data.readers.dicom_seg:masks",
    "seg values": "omnifed.data.readers.dicom_seg:values",
    "seg check": "omnifed.predict.seg_file:check",
    "seg write": "omnifed.predict.seg_file:written",
}
