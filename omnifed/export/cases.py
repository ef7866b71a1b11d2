"""The site's cases on which an export is compared, and those that calibrate it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from omnifed.data.prepare import SiteData
from omnifed.data.prepared import Prepared
from omnifed.errors import OmniFedError
from omnifed.export.quantise import evenly

MOST_CASES = 64
"""Cases on which precisions are compared."""
Split = Literal["test", "val", "train"]


@dataclass(frozen=True)
class Cases:
    """What an export is measured with.

    Attributes:
        split: where ``scored`` is from.
        scored: cases that are compared.
        calibration: images whose ranges int8 takes: the training images, where there are any.
    """

    split: Split
    scored: Prepared
    calibration: Prepared


def cases_of(data: SiteData) -> Cases:
    """Test cases with masks if there are any, else validation cases, else what there is; at most :data:`MOST_CASES`.

    Raises:
        OmniFedError: OF534 if the site has no image.
    """
    splits: tuple[tuple[Split, Prepared], ...] = (("test", data.test), ("val", data.val), ("train", data.train))
    split, scored = next(
        ((n, p) for n, p in splits if np.any(p.has_mask)), next(((n, p) for n, p in splits if len(p)), splits[0])
    )
    if not len(scored):
        raise OmniFedError(
            "OF534",
            "An exported model is compared with the student on at least one image of the site.",
            seen="no image in any split",
            remedy="Give the site at least one validation, test or training image.",
        )
    if np.any(scored.has_mask):
        scored = pick(scored, np.flatnonzero(scored.has_mask))
    calibration = data.train if len(data.train) else scored
    return Cases(split, pick(scored, evenly(len(scored), MOST_CASES)), calibration)


def pick(prepared: Prepared, rows: np.ndarray) -> Prepared:
    """The named rows of prepared slices.

    Args:
        prepared: N slices.
        rows: (n,) indices.
    """

    def names(values: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(values[i] for i in rows)

    return replace(
        prepared,
        images=prepared.images[rows],
        masks=prepared.masks[rows],
        has_mask=prepared.has_mask[rows],
        patients=names(prepared.patients),
        ids=names(prepared.ids),
        keys=names(prepared.keys),
        spacing=prepared.spacing[rows],
    )
