"""A run folder as it lies on disk; whatever is absent is empty. Needs neither torch nor the simulator."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pydantic import ValidationError

from omnifed.config import Frozen
from omnifed.errors import OmniFedError
from omnifed.evaluation.score import MEAN, SUPPRESSED
from omnifed.evaluation.tables import (
    TEACHER,
    CaseRow,
    MatrixRow,
    MetricRow,
    read_cases,
    read_matrix,
    read_metrics,
)
from omnifed.privacy.membership import AUDIT_FILE, Audit
from omnifed.search.results import ArchitectureResult, WeightResult

CENTRAL = "central"
"""The arm that pools all images in one place: a ceiling, no method a hospital could choose."""

SEARCHES = ("search-architecture", "search-weights")
"""Stages whose trials and misses are no arm's."""
_SHARED = "shared"

Result = TypeVar("Result", bound=Frozen)

_SITE: dict[str, Any] = {
    "modality": "",
    "channels": None,
    "labels": [],
    "image_size": "",
    "train": None,
    "unlabelled": None,
    "val": None,
    "test": None,
    "held_out": False,
    "support": {},
    "skipped": [],
    "warnings": [],
    "unit": "",
}


@dataclass(frozen=True)
class Run:
    """What a run folder holds.

    Attributes:
        folder: where it lies.
        config: ``config.json``.
        events: ``events.jsonl`` in order.
        broken_events: lines of it that could not be read (a killed run leaves half a line).
        metrics, cases, matrix: the CSV files, test split.
        sites: ``sites.json``.
        costs: ``costs.json``.
        architecture, weights: what the searches found, from ``search/``.
        audit: the leak report, from ``privacy-audit.json``.
    """

    folder: Path
    config: dict[str, Any]
    events: tuple[dict[str, Any], ...]
    broken_events: int
    metrics: tuple[MetricRow, ...]
    cases: tuple[CaseRow, ...]
    matrix: tuple[MatrixRow, ...]
    sites: tuple[dict[str, Any], ...]
    costs: dict[str, Any]
    architecture: ArchitectureResult | None = None
    weights: WeightResult | None = None
    audit: Audit | None = None

    @cached_property
    def arms(self) -> tuple[str, ...]:
        """Arms in the order of the configuration, then of appearance; without the teacher and the searches."""
        seen = [*_texts(self.config.get("arms")), *(r.arm for r in self.metrics)]
        seen += [str(e["arm"]) for e in self.events if e.get("arm")]
        return tuple(a for a in dict.fromkeys(seen) if a not in (TEACHER, *SEARCHES, _SHARED))

    @cached_property
    def site_names(self) -> tuple[str, ...]:
        """Sites in the order of ``sites.json``, then of appearance."""
        names = [*(str(s["name"]) for s in self.sites), *(r.site for r in self.metrics)]
        searched = [s.site for found in (self.architecture, self.weights) if found for s in found.sites]
        return tuple(dict.fromkeys([*names, *searched]))

    @cached_property
    def site_info(self) -> dict[str, dict[str, Any]]:
        """``sites.json`` by name."""
        return {str(s["name"]): s for s in self.sites}

    @cached_property
    def scores(self) -> dict[tuple[str, str, str, str], MetricRow]:
        """``metrics.csv`` by (arm, site, class, metric)."""
        return {(r.arm, r.site, r.label, r.metric): r for r in self.metrics}

    def score(self, arm: str, site: str, label: str = MEAN, metric: str = "dice") -> MetricRow | None:
        """One line of ``metrics.csv``, the foreground mean's Dice unless told otherwise."""
        return self.scores.get((arm, site, label, metric))

    def withheld(self, arm: str, site: str, label: str = MEAN) -> str:
        """Why a site that was tested told no score of a class; empty where it told one, or was not tested."""
        row = self.scores.get((arm, site, label, SUPPRESSED))
        return f"suppressed (fewer than {row.mean:g} cases)" if row else ""

    def held_out(self, site: str) -> bool:
        """Whether the site never trained."""
        return bool(self.site_info.get(site, {}).get("held_out"))

    def site_mean(self, arm: str) -> float:
        """Mean over the sites that trained of the site's mean Dice; NaN where the arm lacks one of them."""
        rows = [self.score(arm, s) for s in self.site_names if not self.held_out(s)]
        return float(np.mean([r.mean if r else math.nan for r in rows])) if rows else math.nan

    def best_arm(self, values: dict[str, float]) -> str | None:
        """The arm of the highest value, the ceiling left out."""
        known = {a: v for a, v in values.items() if a != CENTRAL and not math.isnan(v)}
        return max(known, key=known.__getitem__) if known else None

    @property
    def only_searched(self) -> bool:
        """Whether the run has searched, and has and wants no arm."""
        return bool(self.architecture or self.weights) and not self.arms

    @property
    def main_arm(self) -> str | None:
        """The arm that the run is about: OmniKD, or the last one that is not the ceiling."""
        candidates = [a for a in self.arms if a != CENTRAL]
        return "omnikd" if "omnikd" in candidates else (candidates[-1] if candidates else None)

    def of(self, event: str) -> Iterator[dict[str, Any]]:
        """Events of one name."""
        return (e for e in self.events if e.get("event") == event)

    def once(self, event: str, *keys: str) -> list[dict[str, Any]]:
        """The last event of one name for each combination of ``keys``: a resumed run tells some of them again."""
        return list({tuple(str(e.get(k, "")) for k in keys): e for e in self.of(event)}.values())

    @property
    def deployed(self) -> bool:
        """Whether a coordinator wrote the folder: it has figures alone, cases and images stay at the sites."""
        return self.config.get("role") == "coordinator"

    def counted(self, event: str, *keys: str) -> Counter[tuple[str, ...]]:
        """How often each combination of ``keys`` occurs among the events of one name."""
        return Counter(tuple(str(e.get(k, "")) for k in keys) for e in self.of(event))


def load_run(folder: Path) -> Run:
    """Reads a run folder.

    Raises:
        OmniFedError: OF422 if there is neither ``config.json`` nor ``metrics.csv``; OF423 if a file is damaged.
    """
    if not any((folder / name).is_file() for name in ("config.json", "metrics.csv")):
        raise OmniFedError(
            "OF422",
            "A report is built from a run folder, which holds config.json and metrics.csv.",
            seen=str(folder),
            remedy="Give the folder that omnifed-sim or omnifed-server wrote.",
        )
    events, broken = _events(folder / "events.jsonl")
    metrics, cases, matrix = (folder / f"{name}.csv" for name in ("metrics", "cases", "matrix"))
    return Run(
        folder=folder,
        config=_json(folder / "config.json", dict),
        events=events,
        broken_events=broken,
        metrics=tuple(r for r in read_metrics(metrics) if r.split == "test") if metrics.is_file() else (),
        cases=tuple(read_cases(cases)) if cases.is_file() else (),
        matrix=tuple(read_matrix(matrix)) if matrix.is_file() else (),
        sites=tuple(_SITE | s for s in _json(folder / "sites.json", list) if isinstance(s, dict) and "name" in s),
        costs=_json(folder / "costs.json", dict),
        architecture=read_result(folder / "search" / "architecture.json", ArchitectureResult),
        weights=read_result(folder / "search" / "weights.json", WeightResult),
        audit=read_result(folder / AUDIT_FILE, Audit),
    )


def read_result(path: Path, kind: type[Result]) -> Result | None:
    """What a search or an audit found; None where it has not ended.

    Raises:
        OmniFedError: OF423 if the file is damaged.
    """
    try:
        return kind.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        found = error.errors()[0] if isinstance(error, ValidationError) else None
        seen = f"{'.'.join(map(str, found['loc']))}: {found['msg']}" if found else str(error)
        raise _damaged(path, seen) from None


def _json(path: Path, kind: type[Any]) -> Any:
    if not path.is_file():
        return kind()
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(value, kind):
            raise ValueError(f"expected a {kind.__name__}")
        return value
    except (OSError, ValueError) as error:
        raise _damaged(path, str(error)) from None


def _damaged(path: Path, seen: str) -> OmniFedError:
    return OmniFedError(
        "OF423",
        "The files of a run folder must be whole and have the documented columns.",
        seen=f"{path}: {seen}",
        remedy="Write the file again by running with --resume.",
    )


def _events(path: Path) -> tuple[tuple[dict[str, Any], ...], int]:
    events, broken = [], 0
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else ():
        try:
            event = json.loads(line)
        except ValueError:
            event = None
        if isinstance(event, dict):
            events.append(event)
        else:
            broken += bool(line.strip())
    return tuple(events), broken


def _texts(value: object) -> list[str]:
    """Names from a list of names, a list of objects with a name, or a mapping by name."""
    if not isinstance(value, list | tuple | dict):
        return []
    return [str(v.get("name", "")) if isinstance(v, dict) else str(v) for v in value]
