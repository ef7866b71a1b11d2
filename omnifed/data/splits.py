"""Train, val and test by patient, the same on every run and every machine."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Protocol

from omnifed.data.site import Splits
from omnifed.errors import OmniFedError

FEWEST = 3
"""Patients below which a split by patient leaves one of train, val and test empty."""


class Labelled(Protocol):
    """What a split must know of a slice."""

    @property
    def name(self) -> str:
        """Name in the index; slices of a patient sort by it."""

    @property
    def patient(self) -> str:
        """Who it belongs to."""

    @property
    def split(self) -> str | None:
        """What the index fixes."""

    @property
    def has_mask(self) -> bool:
        """Whether it can be scored."""


def plan(slices: Sequence[Labelled], splits: Splits) -> tuple[list[str], list[str]]:
    """Assigns all slices of a site, with and without masks.

    Slices with a mask go where the index says, else where :func:`assign` puts them. Slices without a mask train, unless
    their patient is held out for validation or test: then they are left out, so that no patient is in two splits.

    Returns:
        The split of each slice (``""`` left out), and warnings for whoever reads the scores.
    """
    result = [""] * len(slices)
    warnings: list[str] = []
    labelled = [i for i, piece in enumerate(slices) if piece.has_mask]
    if any(piece.split for piece in slices):
        for i in labelled:
            result[i] = slices[i].split or "train"
    else:
        labelled.sort(key=lambda i: natural(slices[i].name))
        for i, split in zip(labelled, assign([slices[i].patient for i in labelled], splits), strict=True):
            result[i] = split
        few = len({slices[i].patient for i in labelled})
        if 0 < few < FEWEST:
            warnings.append(
                f"only {few} patient(s) with masks: one patient's slices are in several splits, scores are optimistic"
            )
    held = {slices[i].patient for i in labelled if result[i] != "train"}
    held -= {slices[i].patient for i in labelled if result[i] == "train"}
    out = 0
    for i, piece in enumerate(slices):
        if not piece.has_mask:
            keep = piece.patient not in held and piece.split in (None, "train")
            result[i] = "train" if keep else ""
            out += not keep
    if out:
        warnings.append(f"{out} slice(s) without a mask belong to held-out patients: left out")
    warnings += [f"the {split} split is empty" for split in ("val", "test") if split not in result]
    return result, warnings


def natural(name: str) -> list[tuple[int, int | str]]:
    """Sort key that puts ``slice_9`` before ``slice_10``."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"([0-9]+)", name)]


def assign(patients: Sequence[str], splits: Splits) -> list[str]:
    """Assigns each labelled slice to a split.

    Patients are ordered by the hash of (seed, patient): a permutation that does not move when another patient comes
    or goes. Of n patients max(1, round(test n)) test and max(1, round(val n)) validate, where the fraction is not 0.
    With ``folds`` = k, every k-th patient from ``fold`` on is the test set.

    Fewer than three patients cannot be split by patient. Then each patient's slices are cut, in the order given, into
    one block a split, and one slice is left out at each cut where the patient has at least nine: neighbours look
    alike, and scores are optimistic.

    Args:
        patients: patient of each slice; slices of one patient in anatomical order.
        splits: fractions, folds and seed.

    Returns:
        ``"train"``, ``"val"`` or ``"test"`` a slice, or ``""`` for a slice left out at a cut. A single slice trains.

    Raises:
        OmniFedError: OF207 if there are fewer patients than folds, or fewer than three.
    """
    names = sorted(set(patients), key=lambda name: hashlib.sha256(f"{splits.seed}\0{name}".encode()).digest())
    if splits.folds and len(names) < max(splits.folds, FEWEST):
        raise OmniFedError(
            "OF207",
            "Cross-validation needs at least as many patients with masks as folds, and three.",
            seen=f"{len(names)} patients for {splits.folds} folds",
            remedy="Lower splits.folds, or set it to 0.",
        )
    if len(names) < FEWEST:
        return _blocks(patients, splits)
    by_patient = dict.fromkeys(names, "train")
    test = names[splits.fold :: splits.folds] if splits.folds else names[: _share(splits.test, len(names))]
    rest = [name for name in names if name not in set(test)]
    by_patient.update(dict.fromkeys(test, "test"))
    by_patient.update(dict.fromkeys(rest[: min(_share(splits.val, len(names)), len(rest) - 1)], "val"))
    return [by_patient[name] for name in patients]


def _share(fraction: float, n: int) -> int:
    """Patients of a split: rounded, at least one where any is wanted, and at least one left to train (n >= 3)."""
    return min(max(1, round(fraction * n)), n - 2) if fraction else 0


def _blocks(patients: Sequence[str], splits: Splits) -> list[str]:
    result = [""] * len(patients)
    for name in dict.fromkeys(patients):
        rows = [i for i, patient in enumerate(patients) if patient == name]
        n = len(rows)
        if n < FEWEST:
            # One slice trains; of two the second tests, so that a site of two single slices has something to score.
            kinds = ["train", "test" if splits.test else "val" if splits.val else "train"][:n]
        else:
            test, val = _share(splits.test, n), _share(splits.val, n)
            val = min(val, n - test - 1)
            kinds = ["train"] * (n - val - test) + ["val"] * val + ["test"] * test
            if n >= 9:
                kinds = [kind if i == 0 or kind == kinds[i - 1] else "" for i, kind in enumerate(kinds)]
        for i, kind in zip(rows, kinds, strict=True):
            result[i] = kind
    return result
