"""What a prediction run says of each input. Names files of the site: it stays there."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Kind = Literal["image", "nifti", "dicom"]


@dataclass(frozen=True)
class LabelSize:
    """How much of one label was found.

    Attributes:
        pixels: of all slices.
        ml: volume in millilitres, None where the size of a voxel is not known.
    """

    pixels: int
    ml: float | None


@dataclass(frozen=True)
class Prediction:
    """One input that was segmented.

    Attributes:
        source: the file or folder.
        kind: how it was read, and so what was written: index PNG, NIfTI or DICOM SEG.
        outputs: label maps.
        overlays: pictures for people; of a folder of slices, the folder.
        slices: number of 2D images.
        labels: name of each label but the background to its size.
        warnings: what a user of the masks should know.
        seconds: wall time.
    """

    source: str
    kind: Kind
    outputs: tuple[str, ...]
    overlays: tuple[str, ...]
    slices: int
    labels: dict[str, LabelSize]
    warnings: tuple[str, ...]
    seconds: float


@dataclass(frozen=True)
class Failed:
    """One input that was not segmented: number and text of the error."""

    source: str
    code: str
    reason: str


@dataclass(frozen=True)
class Report:
    """A run.

    Attributes:
        model: sha256 of the model's file.
        predictions: inputs that were segmented, in order.
        failed: those that were not.
    """

    model: str
    predictions: tuple[Prediction, ...]
    failed: tuple[Failed, ...]

    def as_json(self) -> dict[str, Any]:
        """For ``json.dumps``."""
        return asdict(self)
