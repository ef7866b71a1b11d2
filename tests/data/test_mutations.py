"""Damaged files and bombs end in a number, in another process, and in nothing else."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent / "hostile"))
from bombs import BOMBS, Bomb, write
from mutations import mutated
from valid_files import PLANTED, Valid, dicom_files, other_files

from omnifed.data.readers.base import Picture
from omnifed.data.readers.registry import mask_values, read_image, read_mask
from omnifed.data.sandbox.process import SANDBOX
from omnifed.errors import OmniFedError

KINDS = [*dicom_files(), *other_files()]
LARGEST_KIB = 512 * 1024


def most_kib() -> int:
    """Most memory that the process that reads has had."""
    lines = Path(f"/proc/{SANDBOX.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_each_kind_is_read_before_it_is_damaged(kind: Valid, tmp_path: Path) -> None:
    path = tmp_path / f"file{kind.suffix}"
    path.write_bytes(kind.data)
    if kind.name == "deflated":
        with pytest.raises(OmniFedError, match="OF214"):
            read_image(path)
    elif kind.mask:
        assert set(mask_values(path)) - {0} == {1, 2}
    else:
        assert read_image(path).slices


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_damage_ends_in_a_number_or_an_image_and_quotes_no_patient(kind: Valid, tmp_path: Path) -> None:
    (tmp_path / "ct.dcm").write_bytes(KINDS[0].data)
    ct = read_image(tmp_path / "ct.dcm")
    path = tmp_path / f"file{kind.suffix}"
    for number in range(12):  # 324 files of 27 kinds
        path.write_bytes(mutated(kind.data, kind.suffix, (7, KINDS.index(kind), number)))
        text = "OF212"
        try:  # whatever else is raised fails the test
            if kind.mask:
                mask_values(path)
                read_mask(path, ct)
            else:
                read_image(path, voi=number % 2 == 1)
        except OmniFedError as error:
            text = str(error)
        assert text.startswith(("OF21", "OF22", "OF88"))
        assert PLANTED not in text
        if SANDBOX.pid:  # none after a file that ended it
            assert most_kib() < LARGEST_KIB


def outcome(kind: Valid, path: Path, ct: Picture) -> list[np.ndarray] | str:
    """What a file is read as."""
    try:
        return read_mask(path, ct) if kind.mask else [piece.pixels for piece in read_image(path).slices]
    except OmniFedError as error:
        return error.code


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_damaged_file_does_not_change_what_the_next_one_is_read_as(kind: Valid, tmp_path: Path) -> None:
    ct_path, whole, damaged = (tmp_path / f"{name}{kind.suffix}" for name in ("ct", "whole", "damaged"))
    ct_path = ct_path.with_suffix(".dcm")
    ct_path.write_bytes(KINDS[0].data)
    whole.write_bytes(kind.data)
    SANDBOX.close()
    ct = read_image(ct_path)
    alone = outcome(kind, whole, ct)
    for number in range(6):
        damaged.write_bytes(mutated(kind.data, kind.suffix, (8, KINDS.index(kind), number)))
        outcome(kind, damaged, ct)
        after = outcome(kind, whole, ct)
        assert type(after) is type(alone)
        assert len(after) == len(alone)
        assert all(np.array_equal(a, b) for a, b in zip(after, alone, strict=True))


def test_damage_is_the_same_each_time_and_is_damage() -> None:
    kind = KINDS[0]
    assert mutated(kind.data, kind.suffix, (1, 2)) == mutated(kind.data, kind.suffix, (1, 2))
    assert len({mutated(kind.data, kind.suffix, (1, n)) for n in range(50)} - {kind.data}) >= 48


@pytest.mark.parametrize("bomb", BOMBS, ids=lambda bomb: bomb.name)
def test_a_bomb_is_refused_with_its_number_before_it_has_the_memory(bomb: Bomb, tmp_path: Path) -> None:
    path = write(bomb, tmp_path)
    assert path.stat().st_size < 4 * 2**20
    with pytest.raises(OmniFedError) as caught:
        (mask_values if bomb.mask else read_image)(path)
    assert caught.value.code == bomb.code, str(caught.value)
    if SANDBOX.pid:
        assert most_kib() < LARGEST_KIB
