"""The site contract: what ``site.toml`` may say. Needs no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from omnifed.config import Frozen
from omnifed.models.base import SiteSpec

Modality = Literal["dermoscopy", "ct", "mri", "brain-mri", "oct", "intraop", "xray", "fundus", "microscopy", "other"]
SITE_TOML = "site.toml"
IGNORE = 255
"""Value of mask pixels that carry no label (a whole image without a mask, or padding)."""


class Normalisation(Frozen):
    """How raw intensities become network input.

    Attributes:
        kind: ``rgb`` (ImageNet mean and deviation), ``window`` (CT: HU window to -1..1), ``percentile`` (MR: clip to
            percentiles of the image, z-score), ``minmax`` (X-ray, OCT: percentile range to -1..1).
        window: (low, high) in HU or raw units, for ``window``.
        percentiles: (low, high) in percent, for ``percentile`` and ``minmax``.
    """

    kind: Literal["rgb", "window", "percentile", "minmax"]
    window: tuple[float, float] = (-160.0, 240.0)
    percentiles: tuple[float, float] = (0.5, 99.5)


class Splits(Frozen):
    """Deterministic split by patient; fractions of patients.

    Attributes:
        val, test: fractions; the rest trains.
        folds: 0, or k: fold ``fold`` of k is the test set.
        fold: index below ``folds``.
        seed: of the patient permutation.
    """

    val: float = Field(0.15, ge=0, lt=1)
    test: float = Field(0.25, ge=0, lt=1)
    folds: int = Field(0, ge=0, le=20)
    fold: int = Field(0, ge=0)
    seed: int = 0

    @model_validator(mode="after")
    def _sums(self) -> Splits:
        if self.val + self.test >= 1:
            raise ValueError("val + test must be below 1")
        if self.folds == 1 or (self.folds and self.fold >= self.folds):
            raise ValueError("folds must be 0 or at least 2, and fold below folds")
        return self


class SiteConfig(Frozen):
    """``site.toml``: one hospital's data.

    Attributes:
        name: the registered name of the site.
        modality: what made the images.
        labels: label id to name; 0 is the background; ids are 0..K-1.
        channels: 1 or 3.
        image_size: height and width in pixels that the network sees.
        normalisation: see :class:`Normalisation`.
        index: CSV with the columns image, mask, patient (mask may be empty; optional column split).
        splits: see :class:`Splits`.
        mask_values: mask pixel value (segment number of a DICOM SEG) to label id, where the file's values are not the
            ids (``{255 = 1}``); a target of 255 means no label.
        slice_axis: anatomical axis along which NIfTI volumes are sliced: 0 sagittal, 1 coronal, 2 axial. DICOM is
            sliced as it was acquired.
        unreadable_limit: share of unreadable cases above which ``omnifed check`` fails.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")
    modality: Modality
    labels: dict[int, str]
    channels: Literal[1, 3] = 1
    image_size: tuple[int, int] = (256, 256)
    normalisation: Normalisation
    index: str = "index.csv"
    splits: Splits = Splits()
    mask_values: dict[int, int] = {}
    slice_axis: Literal[0, 1, 2] = 2
    unreadable_limit: float = Field(0.05, ge=0, le=1)

    @field_validator("labels")
    @classmethod
    def _contiguous(cls, labels: dict[int, str]) -> dict[int, str]:
        if sorted(labels) != list(range(len(labels))) or len(labels) < 2:
            raise ValueError("label ids must be 0..K-1 with 0 the background and at least one more")
        return dict(sorted(labels.items()))

    @field_validator("image_size")
    @classmethod
    def _size(cls, size: tuple[int, int]) -> tuple[int, int]:
        if any(s < 32 or s > 1024 or s % 32 for s in size):
            raise ValueError("image_size must be multiples of 32 between 32 and 1024")
        return size

    @model_validator(mode="after")
    def _targets(self) -> SiteConfig:
        if any(target not in self.labels and target != IGNORE for target in self.mask_values.values()):
            raise ValueError("mask_values must map to ids of labels, or to 255 for no label")
        return self

    @property
    def spec(self) -> SiteSpec:
        """What a network must know of this site."""
        return SiteSpec(channels=self.channels, classes=len(self.labels), dimensions=2, modality=self.modality)
