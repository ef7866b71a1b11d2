"""Slices that make a volume, and those that do not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnifed.errors import OmniFedError
from omnifed.predict.stack import distance_of


def plane(z: float, *, x: float = 0.0, across: tuple[float, float, float] = (1, 0, 0), mm: float = 0.5) -> np.ndarray:
    down = np.cross((0, 0, 1), across)
    return np.stack([down * mm, np.array(across) * mm, [x, 0, z]], axis=1)


def refused(code: str, planes: list[np.ndarray | None]) -> str:
    with pytest.raises(OmniFedError) as caught:
        distance_of(planes, "folder")
    assert caught.value.code == code, str(caught.value)
    assert "folder" not in caught.value.rule  # values stay out of what may leave a site
    return caught.value.seen


def test_the_distance_of_neighbours() -> None:
    assert distance_of([plane(z) for z in (0, 2.5, 5, 7.5)], "s") == 2.5
    assert distance_of([plane(z) for z in (0, 2.5, 5.01, 7.5)], "s") == pytest.approx(2.5)
    assert distance_of([plane(z) for z in (0, 2.5, 5.6)], "s") is None  # uneven, but no gap
    assert distance_of([plane(0)], "s") is None
    assert distance_of([None], "s") is None


def test_a_gap_is_named_by_its_place() -> None:
    assert "between slices 2 and 3" in refused("OF625", [plane(z) for z in (0, 1, 3, 4)])
    assert "2.000 mm" in refused("OF625", [plane(z) for z in (0, 1, 3)])


def test_two_slices_at_one_place() -> None:
    assert "1 of 3" in refused("OF626", [plane(z) for z in (0, 1, 1.0005)])


def test_slices_of_another_orientation_spacing_or_place() -> None:
    turned = (float(np.cos(0.01)), float(np.sin(0.01)), 0.0)
    refused("OF627", [plane(0), plane(1, across=turned)])
    refused("OF627", [plane(0), plane(1, mm=0.51)])
    refused("OF627", [plane(0), plane(1, x=0.4), plane(2, x=0.8)])  # sheared by more than a pixel
    refused("OF627", [plane(0), None])
    refused("OF627", [plane(0, across=(0, 0, 0)), plane(1, across=(0, 0, 0))])
    assert distance_of([plane(0), plane(1, x=0.01), plane(2, x=0.02)], "s") == 1  # rounding


@given(st.integers(4, 30), st.data())
def test_no_slice_can_be_missing_between_others(slices: int, data: st.DataObject) -> None:
    gone = data.draw(st.sets(st.integers(2, slices - 2), min_size=1))  # the first two stay: they tell the distance
    planes: list[np.ndarray | None] = [plane(1.25 * k) for k in range(slices) if k not in gone]
    refused("OF625", planes)
