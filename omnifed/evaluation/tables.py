"""The CSV files of a run folder: ``metrics.csv``, ``cases.csv``, ``matrix.csv``. No torch, no pandas."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, get_type_hints

import numpy as np

from omnifed.errors import OmniFedError
from omnifed.evaluation.score import Score
from omnifed.files import write_atomic

if TYPE_CHECKING:
    from omnifed.evaluation.metrics import CaseScores

TEACHER = "teacher"
"""Name under which a teacher's scores stand in the column ``arm``."""


class MetricRow(NamedTuple):
    """One line of ``metrics.csv``; ``label`` is the column ``class``. A missing interval is NaN, an empty cell."""

    arm: str
    site: str
    split: str
    label: str
    metric: str
    mean: float
    ci_low: float
    ci_high: float
    n: int


class CaseRow(NamedTuple):
    """One line of ``cases.csv``: a score of one case; ``patient`` is salted. The file stays on its machine."""

    arm: str
    site: str
    case: str
    patient: str
    label: str
    metric: str
    value: float


class MatrixRow(NamedTuple):
    """One line of ``matrix.csv``: mean Dice of the model of one site on the test cases of another."""

    arm: str
    model_site: str
    test_site: str
    dice: float
    n: int


Row = TypeVar("Row", MetricRow, CaseRow, MatrixRow)


def metric_rows(arm: str, site: str, split: str, scores: Iterable[Score]) -> list[MetricRow]:
    """The rows of one evaluation."""
    return [
        MetricRow(arm, site, split, s.label, s.metric, s.mean, _nan(s.ci_low), _nan(s.ci_high), s.n) for s in scores
    ]


def case_rows(arm: str, site: str, cases: CaseScores, labels: Sequence[str]) -> list[CaseRow]:
    """The rows of one evaluation, undefined values left out, the foreground mean of each case included.

    Args:
        arm: the arm.
        site: the site.
        cases: scores of N cases.
        labels: all label names of the site, background first.
    """
    from omnifed.evaluation.scores import foreground

    return [
        CaseRow(arm, site, cases.ids[i], cases.patients[i], label, metric, float(values[i, m]))
        for label, values in foreground(cases, labels).items()
        for m, metric in enumerate(cases.metrics)
        for i in range(len(cases))
        if not math.isnan(values[i, m])
    ]


def write_metrics(path: Path, rows: Iterable[MetricRow]) -> None:
    """Writes ``metrics.csv``."""
    _write(path, MetricRow, rows)


def write_cases(path: Path, rows: Iterable[CaseRow]) -> None:
    """Writes ``cases.csv``, readable by its owner alone."""
    _write(path, CaseRow, rows, mode=0o600)


def write_matrix(path: Path, rows: Iterable[MatrixRow]) -> None:
    """Writes ``matrix.csv``."""
    _write(path, MatrixRow, rows)


def read_metrics(path: Path) -> list[MetricRow]:
    """Reads ``metrics.csv``.

    Raises:
        OmniFedError: OF423 if a column or a number is missing or broken.
    """
    return _read(path, MetricRow)


def read_cases(path: Path) -> list[CaseRow]:
    """Reads ``cases.csv``; errors as :func:`read_metrics`."""
    return _read(path, CaseRow)


def read_matrix(path: Path) -> list[MatrixRow]:
    """Reads ``matrix.csv``; errors as :func:`read_metrics`."""
    return _read(path, MatrixRow)


def choose_cases(dice: np.ndarray) -> tuple[int, ...]:
    """Indices of the best, the median and the worst case; fewer where there are fewer defined cases.

    Args:
        dice: (n,) mean Dice a case, NaN where undefined.

    Returns:
        Up to three different indices, best first; of equal cases the first wins. The median of an even number is the
        lower one.
    """
    dice = np.asarray(dice, np.float64)
    defined = np.flatnonzero(~np.isnan(dice))
    order = defined[np.argsort(-dice[defined], kind="stable")]
    if not len(order):
        return ()
    picks = (order[0], order[len(order) // 2], order[-1])
    return tuple(dict.fromkeys(int(i) for i in picks))


def _columns(kind: type[Any]) -> list[str]:
    return ["class" if field == "label" else field for field in kind._fields]


def _write(path: Path, kind: type[Any], rows: Iterable[tuple[Any, ...]], *, mode: int = 0o644) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_columns(kind))
    writer.writerows([_cell(value) for value in row] for row in rows)
    write_atomic(path, text.getvalue().encode(), mode=mode)


def _cell(value: object) -> object:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6g}"
    return value


def _read(path: Path, kind: type[Row]) -> list[Row]:
    types = list(get_type_hints(kind).values())
    number = 1
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.reader(file)
            columns = next(reader, [])
            places = [columns.index(column) for column in _columns(kind)]
            rows = []
            for number, cells in enumerate(reader, start=2):  # noqa: B007 - named in the error
                rows.append(kind(*(_value(cells[p], t) for p, t in zip(places, types, strict=True))))
            return rows
    except (OSError, ValueError, IndexError) as error:
        raise OmniFedError(
            "OF423",
            "The files of a run folder must be whole and have the documented columns.",
            seen=f"{path}, line {number}: {error}",
            remedy=f"The columns are {', '.join(_columns(kind))}. Write the file again by running with --resume.",
        ) from None


def _value(cell: str, kind: type) -> Any:
    return math.nan if kind is float and not cell else kind(cell)


def _nan(value: float | None) -> float:
    return math.nan if value is None else value
