"""Why no segmentation can refer to an image."""

from __future__ import annotations

from omnifed.errors import OmniFedError


def undescribed(seen: str) -> OmniFedError:
    """OF640 with what was seen."""
    return OmniFedError(
        "OF640",
        "A DICOM image must carry the identifiers and attributes from which a segmentation can refer to it.",
        seen=seen,
        remedy="Export the series again with its study, series and instance UIDs, all images of one size.",
    )


def no_geometry(seen: str) -> OmniFedError:
    """OF641 with what was seen."""
    return OmniFedError(
        "OF641",
        "The slices of one DICOM segmentation must be parallel, each at its own known position.",
        seen=seen,
        remedy="Give phases, echoes and orientations as series of their own; give frames without position one by one.",
    )


SEG_ERRORS = {"OF640": undescribed, "OF641": no_geometry}
