"""Do the slices of a series make one volume? Numbers only: nothing here reads a file."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from omnifed.data.readers.dicom import normal_of
from omnifed.errors import OmniFedError

_PARALLEL = 1e-4
"""Largest difference of a direction cosine or, relatively, of the pixel spacing: rounding by scanners."""
_SAME = 1e-3
"""Distance in mm below which two slices lie at one place."""
_GAP = 1.5
"""Distance to the next slice, in units of the smallest one, above which a slice is missing."""
_EVEN = 0.01
"""Relative difference of distances that rounding explains."""


def distance_of(planes: Sequence[np.ndarray | None], name: str) -> float | None:
    """Checks that slices are parallel, one above the other, without gap or duplicate.

    Args:
        planes: (3, 3) matrix from (row, column, 1) to mm of each slice, in order of position; None where not known.
        name: of the series, for errors.

    Returns:
        The distance between neighbours in mm; None for a single slice, or where distances vary by more than 1 %.

    Raises:
        OmniFedError: OF625 a gap, OF626 two slices at one place, OF627 no common geometry.
    """
    if len(planes) < 2:
        return None
    known = [plane for plane in planes if plane is not None]
    if len(known) < len(planes):
        raise no_stack(f"{name}: {len(planes) - len(known)} of {len(planes)} slices without position or orientation")
    stack = np.stack(known)
    lengths = np.linalg.norm(stack[:, :, :2], axis=1)
    with np.errstate(invalid="ignore"):
        cosines = stack[:, :, :2] / lengths[:, None]
    alike = np.abs(cosines - cosines[0]).max() <= _PARALLEL and np.abs(lengths / lengths[0] - 1).max() <= _PARALLEL
    if not alike:  # nor where a direction of length 0 makes NaN
        raise no_stack(f"{name}: slices differ in orientation or pixel spacing")
    normal = normal_of(stack[0])
    steps = np.diff(stack[:, :, 2] @ normal)
    sideways = stack[:, :, 2] - stack[0, :, 2]
    sideways -= np.outer(sideways @ normal, normal)
    if steps.min() < _SAME:
        _duplicate(name, int((steps < _SAME).sum()), len(planes))
    if np.linalg.norm(sideways, axis=1).max() > lengths[0].max():
        raise no_stack(f"{name}: the slices are shifted against each other, as with a tilted gantry")
    if steps.max() > _GAP * steps.min():
        _gap(name, steps)
    return float(np.median(steps)) if np.ptp(steps) <= _EVEN * steps.min() else None


def no_stack(seen: str) -> OmniFedError:
    """OF627 with what was seen."""
    return OmniFedError(
        "OF627",
        "The slices of one series must share size, orientation and spacing, and lie one above the other.",
        seen=seen,
        remedy="Give localizers, other orientations and frames without position as series of their own; resample a "
        "tilted series.",
    )


def _gap(name: str, steps: np.ndarray) -> None:
    wide = np.flatnonzero(steps > _GAP * steps.min())
    raise OmniFedError(
        "OF625",
        "A series must have all its slices: a volume with a hole would be silently wrong.",
        seen=f"{name}: {steps[wide[0]]:.3f} mm between slices {wide[0] + 1} and {wide[0] + 2} in order of position, "
        f"{steps.min():.3f} mm elsewhere; {len(wide)} such place(s)",
        remedy="Export the series again with all slices; give parts of another slice distance as series of their own.",
    )


def _duplicate(name: str, pairs: int, slices: int) -> None:
    raise OmniFedError(
        "OF626",
        "A series must have one slice at each position.",
        seen=f"{name}: {pairs} of {slices} slices lie where another one lies",
        remedy="Give phases, echoes or repeated exports each in a folder of its own.",
    )
