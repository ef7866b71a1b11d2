from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnifed.data.site import Splits
from omnifed.data.splits import assign, natural, plan
from omnifed.errors import OmniFedError


@dataclass
class Piece:
    name: str
    patient: str
    split: str | None = None
    has_mask: bool = True


@given(st.lists(st.sampled_from("abcdefghijkl"), min_size=3, max_size=60), st.integers(0, 5))
def test_three_patients_or_more_fill_every_split_and_are_never_torn(patients: list[str], seed: int) -> None:
    result = assign(patients, Splits(seed=seed))
    assert result == assign(patients, Splits(seed=seed))
    where = {patient: {r for p, r in zip(patients, result, strict=True) if p == patient} for patient in set(patients)}
    if len(where) >= 3:
        assert all(len(splits) == 1 for splits in where.values())
        assert set(result) == {"train", "val", "test"}


def test_fractions_are_of_patients() -> None:
    result = assign([f"p{k}" for k in range(20)], Splits(val=0.15, test=0.25))
    assert [result.count(split) for split in ("train", "val", "test")] == [12, 3, 5]
    assert assign([f"p{k}" for k in range(20)], Splits(val=0, test=0)) == ["train"] * 20
    assert result != assign([f"p{k}" for k in range(20)], Splits(seed=1))


def test_a_new_patient_moves_hardly_anybody() -> None:
    before = dict(zip(map(str, range(40)), assign(list(map(str, range(40))), Splits()), strict=True))
    after = dict(zip(map(str, range(41)), assign(list(map(str, range(41))), Splits()), strict=True))
    assert sum(before[name] != after[name] for name in before) <= 3


@given(st.integers(3, 30), st.integers(2, 6))
def test_folds_test_every_patient_exactly_once(n: int, k: int) -> None:
    patients = [f"p{i}" for i in range(n)]
    if n < k:
        with pytest.raises(OmniFedError, match="OF207"):
            assign(patients, Splits(folds=k))
        return
    runs = [assign(patients, Splits(folds=k, fold=fold)) for fold in range(k)]
    for i in range(n):
        assert [run[i] for run in runs].count("test") == 1
    assert all("train" in run and "test" in run for run in runs)


def test_one_patient_is_cut_into_blocks_with_a_gap() -> None:
    result = assign(["p"] * 20, Splits(val=0.2, test=0.2))
    assert result == ["train"] * 12 + [""] + ["val"] * 3 + [""] + ["test"] * 3
    assert assign(["p"] * 4, Splits(val=0.2, test=0.2)) == ["train", "train", "val", "test"]
    assert assign(["p", "q", "p"], Splits()) == ["train", "train", "test"]
    assert assign(["p"], Splits()) == ["train"]
    assert assign([], Splits()) == []


def test_unlabelled_slices_train_unless_their_patient_is_held_out() -> None:
    pieces = [Piece(f"{k}", f"p{k}") for k in range(6)]
    base, _ = plan(pieces, Splits())
    held = f"p{base.index('test')}"
    extra = [Piece("u1", held, has_mask=False), Piece("u2", "new", has_mask=False)]
    result, warnings = plan(pieces + extra, Splits())
    assert result == [*base, "", "train"]
    assert any("left out" in text for text in warnings)


def test_the_split_column_decides() -> None:
    pieces = [Piece("a", "1", "test"), Piece("b", "2", "train"), Piece("c", "3", "val"), Piece("d", "4", None, False)]
    assert plan(pieces, Splits()) == (["test", "train", "val", "train"], [])


def test_no_mask_at_all_trains_and_says_so() -> None:
    result, warnings = plan([Piece("a", "1", None, False), Piece("b", "2", None, False)], Splits())
    assert result == ["train", "train"]
    assert warnings == ["the val split is empty", "the test split is empty"]


def test_blocks_follow_the_natural_order_of_names() -> None:
    pieces = [Piece(f"s_{k}", "p") for k in (10, 9, 8, 2, 1)]
    assert plan(pieces, Splits(val=0.2, test=0.2))[0] == ["test", "val", "train", "train", "train"]
    assert sorted(["a10", "a9", "b1", "a"], key=natural) == ["a", "a9", "a10", "b1"]
