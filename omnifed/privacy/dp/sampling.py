"""Batches for differential privacy: each step takes each patient with the same probability, and one slice of each."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import torch

from omnifed.data.prepared import Prepared
from omnifed.privacy.dp.randomness import SecretDraws
from omnifed.training.batch import Batch
from omnifed.training.batches import Batches, Cache
from omnifed.training.spec import TrainSpec


def labelled_patients(prepared: Prepared) -> tuple[str, ...]:
    """Patients with at least one labelled slice, sorted: the units of privacy."""
    return tuple(sorted({p for p, mask in zip(prepared.patients, prepared.has_mask, strict=True) if mask}))


class PatientBatches(Batches):
    """Poisson samples of patients; a step's batch may be empty, or larger than ``batch_size``.

    Which patients a step takes comes from ``draws`` and is secret, as amplification by sampling needs. The slice of a
    patient and its augmentation come from (seed, step, patient) and from nothing of other patients: a patient who is
    added or removed changes no other one's gradient, which is what clipping relies on. For the same reason all declared
    classes count as present: which of them occur is a fact about the patients. A teacher shows its maps of the images
    as they are, and nothing is mirrored: what else it can teach would have to be measured on the patients.

    Args:
        prepared: the split; slices without a mask are left out.
        spec: seed, expected batch size and whether to augment.
        draws: of this release.
        cache: of a public teacher, whose map of an image depends on that image alone; None without a teacher.

    Raises:
        OmniFedError: OF402 if no slice has a mask.
    """

    def __init__(self, prepared: Prepared, spec: TrainSpec, draws: SecretDraws, cache: Cache | None = None) -> None:
        everything = replace(prepared, present=np.ones_like(np.asarray(prepared.present, bool)))
        super().__init__(everything, spec, cache=cache, joint_flips=False, labelled_only=True)
        self.patients, self._draws = labelled_patients(prepared), draws
        rows: dict[str, list[int]] = {patient: [] for patient in self.patients}
        for row in self._labelled.tolist():
            rows[prepared.patients[row]].append(row)
        self._rows = rows

    @property
    def rate(self) -> float:
        """Probability with which a step takes a patient."""
        return sampling_rate(self.spec.batch_size, len(self.patients))

    def rows(self, step: int) -> np.ndarray:
        """(b,) rows of the split, one a sampled patient; b varies and may be 0."""
        taken = self._draws.uniform("sample", step, len(self.patients)) < self.rate
        chosen = [patient for patient, take in zip(self.patients, taken, strict=True) if take]
        return np.array([self._slice(patient, step) for patient in chosen], np.int64)

    def _slice(self, patient: str, step: int) -> int:
        draw = np.random.default_rng([self.spec.seed, step, 0, *_words(patient)])
        return self._rows[patient][int(draw.integers(len(self._rows[patient])))]

    def _seeds(self, step: int, rows: np.ndarray) -> np.ndarray:
        patients = [self.prepared.patients[row] for row in rows]
        return np.stack(
            [np.random.SeedSequence([self.spec.seed, step, 1, *_words(p)]).generate_state(2) for p in patients]
        )

    def batch(self, step: int) -> Batch:
        """The batch of global step ``step``: (b, C, H, W) images, b as in :meth:`rows`."""
        rows = self.rows(step)
        if len(rows):
            return self._batch(step, rows)
        _, channels, height, width = self.prepared.images.shape
        return Batch(
            image=torch.zeros(0, channels, height, width),
            label=torch.zeros(0, height, width, dtype=torch.int64),
            has_label=torch.zeros(0, dtype=torch.bool),
            present=self._present,
            index=torch.zeros(0, dtype=torch.int64),
        )


def sampling_rate(batch_size: int, patients: int) -> float:
    """q = min(1, batch_size / patients)."""
    return min(1.0, batch_size / patients)


def _words(patient: str) -> list[int]:
    return np.frombuffer(hashlib.sha256(patient.encode()).digest(), "<u4").tolist()
