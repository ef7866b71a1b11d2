"""What is said of a file: why a reader refuses it, its decoder did not survive it, its answer is not believed."""

from __future__ import annotations

from omnifed.errors import OmniFedError

READER_ERRORS = {
    "OF211": (
        "An image must be PNG, JPEG, TIFF, BMP, DICOM or NIfTI; a NIfTI volume has 2 or 3 axes of plain numbers.",
        "Export the image in one of these formats, without time or colour axis, or leave it out (of the folder, of the "
        "index).",
    ),
    "OF212": ("An image file must be complete.", "Copy or export the file again."),
    "OF213": (
        "An image must have at least 1 pixel and stay below the size limit (64 Mpx an image, 256 Mpx a volume).",
        "Check the file's header; split or downsample what is really that large.",
    ),
    "OF214": (
        "A DICOM file must not be deflated: a small one can inflate beyond any memory.",
        "Export the file uncompressed or as RLE, JPEG or JPEG 2000.",
    ),
    "OF215": (
        "A DICOM folder must hold one series.",
        "Move each series to a folder of its own; in an index, give each a row of its own.",
    ),
    "OF216": (
        "A DICOM file or folder must hold images that can be decoded here.",
        "Name the folder of the image series; export it uncompressed, or install the decoder that docs/errors/OF216.md "
        "names.",
    ),
    "OF219": (
        "A mask must have the size of its image; a raster mask has no position and fits a single slice only.",
        "Export the mask on the pixels of its image; give a volume's mask as NIfTI or DICOM SEG, or write one index "
        "row a slice.",
    ),
    "OF221": (
        "A mask must hold one label value a pixel.",
        "Export the label map itself, not a probability map, as DICOM SEG, NIfTI, or a grey or palette PNG.",
    ),
    "OF222": (
        "A NIfTI mask must share the grid of its image.",
        "Save the mask with the affine matrix and the shape of the image.",
    ),
    "OF223": (
        "A DICOM segmentation must refer to its image, or lie at the same position.",
        "Pair each segmentation with the series it was drawn on.",
    ),
    "OF224": (
        "Segments of one DICOM segmentation must not overlap: a pixel has one label.",
        "Map segments that the site does not use to 0 in mask_values, or export them without overlap.",
    ),
}
"""Rule and remedy of what readers refuse: the process that decodes names the number, the texts are ours."""


def refused(code: str, seen: str) -> OmniFedError:
    """An error of :data:`READER_ERRORS`."""
    rule, remedy = READER_ERRORS[code]
    return OmniFedError(code, rule, seen=seen, remedy=remedy)


def broken(seen: str) -> OmniFedError:
    """OF880 with what was seen."""
    return OmniFedError(
        "OF880",
        "A file must not break its decoder.",
        seen=seen,
        remedy="Export the file again; treat one that does it again as hostile.",
    )


def too_long(seen: str) -> OmniFedError:
    """OF881 with what was seen."""
    return OmniFedError(
        "OF881",
        "A file must be decoded within the time limit (2 s of processor time for a small one, more for larger ones).",
        seen=seen,
        remedy="Export the file again, uncompressed; treat one that does it again as hostile.",
    )


def too_much(seen: str) -> OmniFedError:
    """OF882 with what was seen."""
    return OmniFedError(
        "OF882",
        "A file must be decoded within the memory limit (512 MiB for a small one, more for larger ones).",
        seen=seen,
        remedy="Export the file again, uncompressed or as a smaller type; treat an unknown one as hostile.",
    )


def unbelievable(seen: str) -> OmniFedError:
    """OF883 with what was seen."""
    return OmniFedError(
        "OF883",
        "The process that reads files must start, and answer what it was asked.",
        seen=seen,
        remedy="See docs/errors/OF883.md: a file may have taken it over, or the system does not let it start.",
    )
