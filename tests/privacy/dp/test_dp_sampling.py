"""Who is taken in a step, and what nobody else's coming or going may change."""

from __future__ import annotations

import math
import secrets
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_patients import made_patients

from omnifed.models.base import Out
from omnifed.privacy.dp.randomness import SecretDraws
from omnifed.privacy.dp.sampling import PatientBatches, labelled_patients, sampling_rate
from omnifed.training.spec import TrainSpec

SPEC = TrainSpec(batch_size=2, seed=5)
KEY = bytes(range(32))


def batches(slices: dict[str, int], key: bytes = KEY, **changes: object) -> PatientBatches:
    return PatientBatches(made_patients(slices), SPEC.model_copy(update=changes), SecretDraws(key))


def test_draws_repeat_with_the_key_and_with_nothing_else() -> None:
    draws = SecretDraws(KEY)
    assert draws.uniform("noise", 3, 4).tolist() == SecretDraws(KEY).uniform("noise", 3, 4).tolist()
    others = [
        draws.uniform("sample", 3, 4),
        draws.uniform("noise", 4, 4),
        SecretDraws(secrets.token_bytes(32)).uniform("noise", 3, 4),
    ]
    first = draws.uniform("noise", 3, 4)
    assert all(not np.isin(first, other).any() for other in others)
    with pytest.raises(ValueError, match="32 bytes"):
        SecretDraws(b"short")


def test_normal_draws_have_the_moments_of_a_normal_distribution() -> None:
    draws = SecretDraws(KEY).normal(0, 200_000)
    # Standard errors: 1 / sqrt(n), sqrt(2 / n), sqrt(96 / n).
    assert float(draws.mean()) == pytest.approx(0, abs=0.01)
    assert float(draws.var()) == pytest.approx(1, abs=0.015)
    assert float((draws**4).mean()) == pytest.approx(3, abs=0.1)
    assert draws.isfinite().all()


def test_uniform_draws_are_never_0_or_1(monkeypatch: pytest.MonkeyPatch) -> None:
    for byte, expected in ((0, 0.5 * 2.0**-52), (255, 1 - 2.0**-53)):
        monkeypatch.setattr(
            "numpy.frombuffer", lambda data, kind, byte=byte: np.full(1, byte * 0x0101010101010101, "<u8")
        )
        assert SecretDraws(KEY).uniform("noise", 0, 1)[0] == expected


def test_patients_are_sampled_one_by_one_with_the_same_probability() -> None:
    # 2 of 8 expected, over 4,000 steps: 0.25 with a standard error of 0.007.
    made = batches(dict.fromkeys("abcdefgh", 1))
    assert made.rate == 0.25
    taken = np.zeros((4000, 8), bool)
    for step in range(4000):
        taken[step, made.rows(step)] = True
    np.testing.assert_allclose(taken.mean(0), 0.25, atol=4 * math.sqrt(0.25 * 0.75 / 4000))
    assert taken.sum(1).var() == pytest.approx(8 * 0.25 * 0.75, rel=0.15)
    both = (taken[:, :1] & taken[:, 1:]).mean(0)
    np.testing.assert_allclose(both, 0.0625, atol=0.02)


def test_a_patient_with_many_slices_counts_once_and_gives_one() -> None:
    made = batches({"a": 50, "b": 1, "c": 1, "d": 1}, batch_size=4)
    assert (made.patients, made.rate) == (("a", "b", "c", "d"), 1.0)
    slices = set()
    for step in range(30):
        rows = made.rows(step)
        assert [made.prepared.patients[row] for row in rows] == ["a", "b", "c", "d"]
        slices.add(int(rows[0]))
    assert len(slices) > 10


def test_patients_without_a_mask_are_no_part_of_it() -> None:
    prepared = made_patients({"a": 2, "b": 1, "c": 1}, unlabelled=("b",))
    assert labelled_patients(prepared) == ("a", "c")
    made = PatientBatches(prepared, SPEC, SecretDraws(KEY))
    assert {prepared.patients[row] for step in range(20) for row in made.rows(step)} <= {"a", "c"}


def test_another_patient_changes_nobodys_slice_or_augmentation() -> None:
    few, more = batches({"b": 3, "c": 4}), batches({"a": 2, "b": 3, "bb": 1, "c": 4}, batch_size=4)
    assert few.rate == more.rate == 1.0
    for step in range(5):
        one, two = few.batch(step), more.batch(step)
        where = [list(more.patients).index(patient) for patient in few.patients]
        assert torch.equal(one.image, two.image[where])
        assert torch.equal(one.label, two.label[where])


class Maps:
    """Maps that tell whose they are; notes which views are asked for."""

    def __init__(self) -> None:
        self.views: set[int] = set()

    def get(self, keys: Sequence[str], views: Sequence[int]) -> Out:
        self.views |= set(views)
        return Out(torch.stack([torch.full((2, 8, 8), float(sum(key.encode()))) for key in keys]))


def test_another_patient_changes_nobodys_map_and_no_view_but_the_first_is_seen() -> None:
    cache = Maps()
    few, more = (
        PatientBatches(made_patients(slices), SPEC.model_copy(update={"batch_size": 4}), SecretDraws(KEY), cache)
        for slices in ({"b": 3, "c": 4}, {"a": 2, "b": 3, "bb": 1, "c": 4})
    )
    for step in range(5):
        one, two = few.batch(step), more.batch(step)
        where = [list(more.patients).index(patient) for patient in few.patients]
        assert one.teacher is not None
        assert two.teacher is not None
        assert torch.equal(one.image, two.image[where])
        assert torch.equal(one.teacher.logits, two.teacher.logits[where])
    assert cache.views == {0}


def test_a_step_may_take_nobody() -> None:
    made = batches(dict.fromkeys(map(str, range(9)), 1), batch_size=1)
    empty = next(step for step in range(100) if not len(made.rows(step)))
    batch = made.batch(empty)
    assert (batch.image.shape, batch.label.shape) == ((0, 1, 32, 32), (0, 32, 32))


def test_which_classes_occur_is_not_told_by_the_loss() -> None:
    prepared = replace(made_patients({"a": 1, "b": 1}), present=np.array([True, False]))
    assert PatientBatches(prepared, SPEC, SecretDraws(KEY)).batch(0).present.tolist() == [True, True]


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 500), st.integers(1, 500))
def test_the_rate_is_a_probability_that_gives_the_batch(size: int, patients: int) -> None:
    rate = sampling_rate(size, patients)
    assert 0 < rate <= 1
    assert rate * patients == pytest.approx(min(size, patients))
