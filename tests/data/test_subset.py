from __future__ import annotations

from dataclasses import fields

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from omnifed.data.prepared import Prepared
from omnifed.data.site import IGNORE
from omnifed.data.subset import subset
from omnifed.models.base import SiteSpec


def split(patients: list[str], has_mask: list[bool]) -> Prepared:
    """Slice i has the value i everywhere."""
    n = len(patients)
    masks = np.where(np.array(has_mask)[:, None, None], 1, IGNORE).astype(np.uint8) * np.ones((n, 4, 4), np.uint8)
    return Prepared(
        SiteSpec(1, 2, modality="mri"),
        np.arange(n, dtype=np.float16).reshape(n, 1, 1, 1) * np.ones((1, 1, 4, 4), np.float16),
        masks,
        np.array(has_mask),
        tuple(patients),
        tuple(f"id{i}" for i in range(n)),
        tuple(f"key{i}" for i in range(n)),
        np.arange(2 * n, dtype=np.float32).reshape(n, 2),
        np.ones(2, bool),
    )


TEN = split([f"p{i // 3}" for i in range(30)], [True] * 30)
SPLITS = st.lists(st.tuples(st.sampled_from("abcdefgh"), st.booleans()), min_size=1, max_size=30).map(
    lambda rows: split([p for p, _ in rows], [m for _, m in rows])
)
FRACTIONS = st.floats(0.01, 1.0)


def test_a_share_of_the_patients_with_all_their_slices() -> None:
    part = subset(TEN, 0.2, 0)
    assert len(set(part.patients)) == 2
    assert len(part) == 6
    assert len(set(subset(TEN, 0.25, 0).patients)) == 2  # round(2.5): to even
    assert len(set(subset(TEN, 0.01, 0).patients)) == 1


def test_every_field_follows_the_rows() -> None:
    part = subset(TEN, 0.4, 3)
    rows = [int(value) for value in part.images[:, 0, 0, 0]]
    assert rows == sorted(rows)
    assert part.ids == tuple(f"id{i}" for i in rows)
    assert part.keys == tuple(f"key{i}" for i in rows)
    assert part.patients == tuple(f"p{i // 3}" for i in rows)
    assert part.spacing.tolist() == [[2 * i, 2 * i + 1] for i in rows]
    assert len(part.has_mask) == len(part.masks) == len(rows)
    assert {field.name for field in fields(part)} == {"spec", "images", "masks", "has_mask", "patients", "ids", "keys",
                                                      "spacing", "present"}  # fmt: skip


def test_the_whole_is_given_back_as_it_is() -> None:
    assert subset(TEN, 1.0, 0) is TEN


def test_another_seed_takes_other_patients() -> None:
    assert len({subset(TEN, 0.3, seed).ids for seed in range(5)}) > 1


def test_the_order_does_not_move_when_a_patient_comes() -> None:
    more = split([*TEN.patients, "new"], [True] * 31)
    old, new = set(subset(TEN, 0.5, 0).patients), set(subset(more, 0.5, 0).patients)
    assert old <= new


def test_patients_without_a_mask_follow_the_same_share() -> None:
    patients = [f"p{i}" for i in range(10)] + [f"u{i}" for i in range(20)]
    part = subset(split(patients, [True] * 10 + [False] * 20), 0.2, 0)
    assert sum(name.startswith("p") for name in part.patients) == 2
    assert sum(name.startswith("u") for name in part.patients) == 4


def test_where_nobody_has_a_mask_one_patient_is_left_to_distil_from() -> None:
    assert len(subset(split(["a", "b", "c"], [False] * 3), 0.01, 0)) == 1


def test_rows_of_a_map_are_read_as_they_are(tmp_path) -> None:
    np.save(tmp_path / "images.npy", TEN.images)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    part = subset(Prepared(**{**vars(TEN), "images": mapped}), 0.2, 0)
    np.testing.assert_array_equal(part.images, subset(TEN, 0.2, 0).images)


@given(SPLITS, FRACTIONS, FRACTIONS, st.integers(0, 5))
def test_a_larger_share_holds_a_smaller_one(whole: Prepared, one: float, other: float, seed: int) -> None:
    small, large = subset(whole, min(one, other), seed), subset(whole, max(one, other), seed)
    assert set(small.ids) <= set(large.ids) <= set(whole.ids)
    assert len(small) >= 1
    assert small.has_mask.any() or not whole.has_mask.any()
    for patient in set(small.patients):
        assert small.patients.count(patient) == whole.patients.count(patient)
