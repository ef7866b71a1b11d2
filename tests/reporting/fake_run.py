"""A small run folder with the files, names and shapes that a simulation writes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from omnifed.evaluation.metrics import CaseScores
from omnifed.evaluation.scores import summarise
from omnifed.evaluation.tables import (
    MatrixRow,
    MetricRow,
    case_rows,
    choose_cases,
    metric_rows,
    write_cases,
    write_matrix,
    write_metrics,
)

SITES: dict[str, tuple[str, tuple[str, ...], str]] = {
    "derma-nord": ("dermoscopy", ("background", "lesion"), "px"),
    "klinik-ct": ("ct", ("background", "liver", "spleen", "left kidney"), "mm"),
    "augen-sued": ("oct", ("background", "fluid <b>"), "px"),
    "kopf-west": ("brain-mri", ("background", "tumour"), "mm"),
}
LEVEL = {"local": 0.70, "fedavg": 0.66, "fedbn": 0.74, "omnikd": 0.79, "central": 0.82, "teacher": 0.84}
ARMS = [arm for arm in LEVEL if arm != "teacher"]
ROUNDS = 5
HELD_OUT = "kopf-west"


def make_run(folder: Path, *, patients: int = 12, size: int = 64) -> Path:
    """Writes the folder; numbers are drawn around the levels above."""
    rng = np.random.default_rng(3)
    folder.mkdir(parents=True, exist_ok=True)
    config = {"preset": "modalities", "data": "", "arms": ARMS, "rounds": ROUNDS, "seed": 0, "steps": 40}
    config |= {"student": {"family": "omnisegnet", "alpha": 0.62}, "versions": {"torch": "2.13"}, "machine": "2 cores"}
    (folder / "config.json").write_text(json.dumps(config))
    metrics: list[MetricRow] = []
    cases = []
    for site, (_, labels, unit) in SITES.items():
        hardness = rng.normal(0, 0.08, (2 * patients, len(labels) - 1))
        for arm, level in LEVEL.items():
            if site == HELD_OUT and arm not in ("fedbn", "omnikd"):
                continue
            scores = _scores(rng, level + hardness, unit)
            metrics += metric_rows(arm, site, "test", summarise(scores, labels))
            cases += case_rows(arm, site, scores, labels)
            _predictions(rng, folder / "predictions" / arm / f"{site}.npz", scores, len(labels), size)
    write_metrics(folder / "metrics.csv", metrics)
    write_cases(folder / "cases.csv", cases)
    names = list(SITES)
    write_matrix(
        folder / "matrix.csv",
        [
            MatrixRow(arm, a, b, 0.8 if a == b else 0.2 + 0.1 * i, 24)
            for arm in ("local", "omnikd")
            for i, a in enumerate(names[:3])
            for b in names
            if not (a == "klinik-ct") ^ (b == "klinik-ct")
        ],
    )
    (folder / "events.jsonl").write_text("\n".join(json.dumps(e) for e in _events(rng)) + '\n{"time": "2026-0')
    (folder / "sites.json").write_text(json.dumps([_site(name) for name in names]))
    (folder / "costs.json").write_text(
        json.dumps(
            {"student": "omnisegnet:compact", "params": 1_561_482, "macs": 2_300_000_000, "size": "256 x 256 x 3"}
        )
    )
    return folder


def _scores(rng: np.random.Generator, level: np.ndarray, unit: str) -> CaseScores:
    dice = np.clip(level + rng.normal(0, 0.04, level.shape), 0.02, 0.99)
    values = np.stack([dice, dice / (2 - dice), 40 * (1 - dice), np.clip(dice + 0.05, 0, 1)], -1)
    n = len(values)
    return CaseScores(
        values=values,
        patients=tuple(f"{i // 2:08x}" for i in range(n)),
        ids=tuple(f"{(i + 1) * 0x9E3779B97F4A % 2**48:012x}" for i in range(n)),
        unit=unit,  # type: ignore[arg-type]
    )


def _predictions(rng: np.random.Generator, path: Path, scores: CaseScores, classes: int, size: int) -> None:
    dice = scores.values[:, :, 0].mean(1)
    chosen = choose_cases(dice)
    rows, columns = np.mgrid[:size, :size]
    images, truths, preds = [], [], []
    for index in chosen:
        truth, pred = np.zeros((size, size), np.uint8), np.zeros((size, size), np.uint8)
        for k in range(1, classes):
            centre, radius = rng.uniform(0.3, 0.7, 2) * size, size / 8
            shift = (1 - dice[index]) * radius * 1.5
            truth[np.hypot(rows - centre[0], columns - centre[1]) < radius] = k
            pred[np.hypot(rows - centre[0] - shift, columns - centre[1]) < radius] = k
        images.append(np.repeat((90 + 60 * (truth > 0) + rng.normal(0, 9, truth.shape))[..., None], 3, -1))
        truths.append(truth)
        preds.append(pred)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        path,
        images=np.stack(images).clip(0, 255).astype(np.uint8),
        truth=np.stack(truths),
        pred=np.stack(preds),
        dice=dice[list(chosen)],
        ids=np.array([scores.ids[i] for i in chosen]),
    )


def _events(rng: np.random.Generator) -> list[dict[str, object]]:
    events: list[dict[str, object]] = []
    training = [s for s in SITES if s != HELD_OUT]
    for i, site in enumerate(training):
        events.append(
            {"event": "teach", "site": site, "dice": 0.85, "seconds": 21.0 + i, "cached": 80, "cache_bytes": 9_000_000}
            | {"flip_error": 0.04, "teacher_id": "ab" * 32}
        )
    for arm in ARMS[:4]:
        for r in range(ROUNDS):
            for site in training:
                dice = LEVEL[arm] - 0.4 * 0.5**r + rng.normal(0, 0.01)
                loss = {"loss": 1.2 * 0.7**r, "ce": 0.4 * 0.7**r, "dice": 0.8 * 0.7**r}
                loss |= {"logits": 0.3 * 0.8**r, "features": 0.02} if arm == "omnikd" else {}
                events.append(
                    {"event": "round", "arm": arm, "round": r, "site": site, "dice": dice, "loss": loss, "seconds": 3.1}
                    | {"bytes_up": 0 if arm == "local" else 6_200_000, "bytes_down": 6_200_000, "adopted": True}
                )
        events.append(
            {"event": "arm", "arm": arm, "seconds": 47.0, "cpu_seconds": 80.5, "bytes": 1, "peak_mib": 612.0}
            | {"virtual_seconds": 300.0}
        )
    events.append(
        {"event": "miss", "arm": "fedavg", "round": 2, "site": "augen-sued", "code": "OF511", "rule": "Late."}
    )
    events.append({"event": "warning", "site": "klinik-ct", "text": "Class spleen has 3 training slices."})
    events.append({"event": "export", "site": "derma-nord", "path": "models/derma-nord.onnx", "bytes": 6_400_000})
    return [{"time": "2026-03-01T10:00:00", **e} for e in events]


def _site(name: str) -> dict[str, object]:
    modality, labels, unit = SITES[name]
    return {
        "name": name,
        "modality": modality,
        "channels": 3 if modality == "dermoscopy" else 1,
        "labels": labels,
        "image_size": [128, 128],
        "train": 40,
        "unlabelled": 8,
        "val": 8,
        "test": 24,
        "held_out": name == HELD_OUT,
        "support": {label: 20 - 3 * i for i, label in enumerate(labels[1:])},
        "skipped": [{"code": "OF212", "reason": "The image is truncated.", "count": 2}] if name == "klinik-ct" else [],
        "warnings": [],
        "unit": unit,
    }
