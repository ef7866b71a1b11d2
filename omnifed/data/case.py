"""Reads one index row: its slices with their label maps, or the reason why not."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from omnifed.data.index import Row
from omnifed.data.normalise import check_finite
from omnifed.data.readers.base import Picture, Spacing
from omnifed.data.readers.registry import read_image, read_mask
from omnifed.data.site import IGNORE, SiteConfig
from omnifed.data.site_folder import Site
from omnifed.errors import OmniFedError


@dataclass(frozen=True)
class Case:
    """One readable slice.

    Attributes:
        name: image of the index, with ``#k`` for slice k of a volume. Stays at the site.
        pixels: (H, W) or (H, W, 3), native.
        mask: (H, W) uint8 label ids and ``IGNORE``; None without a mask.
        spacing: row and column spacing in mm, NaN where unknown.
    """

    name: str
    pixels: np.ndarray
    mask: np.ndarray | None
    spacing: Spacing


@dataclass(frozen=True)
class Skipped:
    """A row, or a slice of it, that was left out: counted and named, never silently.

    Attributes:
        name: as in the index; stays at the site.
        code: number of the error.
        reason: its text; stays at the site.
    """

    name: str
    code: str
    reason: str


def read_case(site: Site, row: Row) -> tuple[list[Case], list[Skipped]]:
    """Reads image and mask of a row.

    Returns:
        The readable slices in order of position, and what was skipped. Never raises for what a file holds.
    """
    config = site.config
    try:
        if not row.image or not row.patient:
            raise OmniFedError(
                "OF204",
                "Every line of the index must name an image and a patient.",
                seen=f"image {row.image!r}, patient {'given' if row.patient else 'empty'}",
                remedy="Fill the cell; use one made-up patient an image where none is known.",
            )
        voi = config.normalisation.kind in ("minmax", "rgb")
        picture = read_image(site.path(row.image), slice_axis=config.slice_axis, voi=voi)
        masks: list[np.ndarray] | list[None] = [None] * len(picture.slices)
        if row.mask:
            drop = {value for value, target in config.mask_values.items() if target == 0}
            masks = [to_labels(mask, config) for mask in read_mask(site.path(row.mask), picture, drop)]
            _same_size(picture, masks)
    except OmniFedError as error:
        return [], [Skipped(row.image, error.code, str(error))]
    many = len(picture.slices) + len(picture.failed) > 1
    cases: list[Case] = []
    skipped = [Skipped(f"{row.image}#{name}", error.code, str(error)) for name, error in picture.failed]
    for piece, mask in zip(picture.slices, masks, strict=True):
        name = f"{row.image}#{piece.number}" if many else row.image
        try:
            check_finite(piece.pixels)
            cases.append(Case(name, piece.pixels, mask, piece.spacing))
        except OmniFedError as error:
            skipped.append(Skipped(name, error.code, str(error)))
    return cases, skipped


def to_labels(mask: np.ndarray, config: SiteConfig) -> np.ndarray:
    """File values to label ids.

    Args:
        mask: (H, W) integers.
        config: its ``mask_values`` and ``labels``. With ``mask_values`` a value that is not named is an error, but 0.

    Returns:
        (H, W) uint8 of label ids and ``IGNORE``.

    Raises:
        OmniFedError: OF220 for a value that the site does not know, OF221 for one that is no whole number.
    """
    if mask.dtype == np.uint8:  # ten times faster than np.unique, and nearly every mask
        values = np.flatnonzero(np.bincount(mask.ravel(), minlength=256))
    else:
        values, inverse = np.unique(mask, return_inverse=True)
    known = {0: 0, **config.mask_values} if config.mask_values else {label: label for label in config.labels}
    unknown = [value for value in values.tolist() if value not in known]
    if unknown:
        raise OmniFedError(
            "OF220",
            "Every value of a mask must be a label of the site.",
            seen=f"values {', '.join(map(str, unknown[:8]))}{' ...' if len(unknown) > 8 else ''}; known are "
            f"{', '.join(map(str, known))}",
            remedy="Add the label to site.toml, or map the value in mask_values (to 255 for no label).",
        )
    ids = np.array([known[value] for value in values.tolist()], np.uint8)
    if mask.dtype == np.uint8:
        table = np.zeros(256, np.uint8)
        table[values] = ids
        return table[mask]
    return ids[inverse].reshape(mask.shape)


def _same_size(picture: Picture, masks: list[np.ndarray]) -> None:
    for piece, mask in zip(picture.slices, masks, strict=True):
        if piece.pixels.shape[:2] != mask.shape:
            raise OmniFedError(
                "OF219",
                "A mask must have the size of its image; a raster mask has no position and fits a single slice only.",
                seen=f"mask {mask.shape[1]} x {mask.shape[0]}, image {piece.pixels.shape[1]} x {piece.pixels.shape[0]}",
                remedy="Export the mask on the pixels of the image.",
            )


def has_label(mask: np.ndarray | None) -> bool:
    """Whether a mask says anything: it exists and is not ``IGNORE`` everywhere."""
    return mask is not None and bool((mask != IGNORE).any())
