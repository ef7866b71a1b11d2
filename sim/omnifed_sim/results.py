"""From the sites' state folders to the tables and pictures of a run folder.

Only a simulation may do this: it is every hospital at once. A deployed coordinator sees the replies alone.
"""

from __future__ import annotations

import dataclasses
import hmac
import io
import secrets
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from omnifed.data.overlay import to_uint8
from omnifed.data.prepare import SiteData
from omnifed.data.prepared import Prepared
from omnifed.evaluation.metrics import CaseScores, mean_dice, score_cases, unit_of
from omnifed.evaluation.predict import predict_masks
from omnifed.evaluation.score import MEAN
from omnifed.evaluation.scores import foreground, summarise
from omnifed.evaluation.tables import (
    CaseRow,
    MatrixRow,
    MetricRow,
    case_rows,
    choose_cases,
    metric_rows,
    write_cases,
    write_matrix,
    write_metrics,
)
from omnifed.files import write_atomic
from omnifed.models.registry import build_student
from omnifed.models.spec import StudentSpec
from omnifed.models.weights import load_state
from omnifed.states import State


@dataclasses.dataclass
class Results:
    """Rows that grow with each evaluation, and the pictures beside them."""

    folder: Path
    seed: int
    metrics: list[MetricRow] = dataclasses.field(default_factory=list)
    cases: list[CaseRow] = dataclasses.field(default_factory=list)
    matrix: list[MatrixRow] = dataclasses.field(default_factory=list)

    def add(self, arm: str, site: SiteData, predicted: np.ndarray) -> float:
        """Scores one arm on one site's test cases and keeps three of them as pictures; returns the mean Dice."""
        name, labels = site.config.name, list(site.config.labels.values())
        cases = score_cases(predicted, site.test)
        self.metrics += metric_rows(arm, name, "test", summarise(cases, labels, self.seed))
        keys = tuple(self._salted(patient) for patient in cases.patients)
        self.cases += case_rows(arm, name, dataclasses.replace(cases, patients=keys), labels)
        self._pictures(arm, site, predicted, cases, labels)
        return mean_dice(predicted, site.test)

    def add_matrix(self, arm: str, models: Sequence[tuple[SiteData, StudentSpec, State]]) -> None:
        """Each site's model on each other site's test cases, where channels and labels are the same."""
        for own, student, state in models:
            model = build_student(student, own.config.spec)
            load_state(model, state)
            for other, _, _ in models:
                if other.config.labels == own.config.labels and other.config.spec == own.config.spec:
                    dice = mean_dice(predict_masks(model, other.test), other.test)
                    row = MatrixRow(arm, own.config.name, other.config.name, dice, len(other.test))
                    self.matrix.append(row)

    def _salted(self, patient: str) -> str:
        """A patient's key in tables that people pass on: the same within a run folder, and says nothing outside it."""
        path = self.folder / ".salt"
        if not path.is_file():
            write_atomic(path, secrets.token_bytes(16), mode=0o600)
        return hmac.new(path.read_bytes(), patient.encode(), "sha256").hexdigest()[:16]

    def write(self) -> None:
        """Writes metrics.csv, cases.csv and matrix.csv."""
        write_metrics(self.folder / "metrics.csv", self.metrics)
        write_cases(self.folder / "cases.csv", self.cases)
        write_matrix(self.folder / "matrix.csv", self.matrix)

    def _pictures(
        self, arm: str, site: SiteData, predicted: np.ndarray, cases: CaseScores, labels: Sequence[str]
    ) -> None:
        dice = foreground(cases, labels)[MEAN][:, cases.metrics.index("dice")]
        chosen = choose_cases(dice)
        rows = [np.flatnonzero(site.test.has_mask)[i] for i in chosen]
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            images=stack(to_uint8(site.test.images[row]) for row in rows),
            truth=site.test.masks[rows],
            pred=predicted[rows],
            dice=dice[list(chosen)],
            ids=np.array([cases.ids[i] for i in chosen]),
        )
        write_atomic(self.folder / "predictions" / arm / f"{site.config.name}.npz", buffer.getvalue(), mode=0o600)


def stack(images: Iterable[np.ndarray]) -> np.ndarray:
    """(n, H, W, 3); (0, 1, 1, 3) of nothing."""
    found = list(images)
    return np.stack(found) if found else np.zeros((0, 1, 1, 3), np.uint8)


def support(split: Prepared, labels: dict[int, str]) -> dict[str, int]:
    """Label name to the number of cases of a split that show it."""
    return {
        label: int((np.asarray(split.masks) == value).any((1, 2)).sum()) for value, label in labels.items() if value
    }


def about_site(site: SiteData, *, held_out: bool) -> dict[str, object]:
    """One entry of sites.json."""
    config = site.config
    counts: dict[tuple[str, str], int] = {}
    for skipped in site.skipped:
        counts[(skipped.code, skipped.reason)] = counts.get((skipped.code, skipped.reason), 0) + 1
    return {
        "name": config.name,
        "modality": config.modality,
        "channels": config.channels,
        "labels": list(config.labels.values()),
        "image_size": list(site.train.images.shape[2:]),
        "train": int(site.train.has_mask.sum()),
        "unlabelled": int((~site.train.has_mask).sum()),
        "val": len(site.val),
        "test": len(site.test),
        "held_out": held_out,
        "unit": unit_of(site.test),
        "support": support(site.test, config.labels),
        "skipped": [{"code": c, "reason": r, "count": n} for (c, r), n in counts.items()],
        "warnings": list(site.warnings),
    }
