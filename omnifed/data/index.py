"""The index of a site: a CSV with one line an image."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from omnifed.errors import OmniFedError


@dataclass(frozen=True)
class Row:
    """One line of the index.

    Attributes:
        image: path of a file, a volume or a DICOM folder, relative to the site folder or absolute.
        mask: path of its mask, or None: the image trains through the teacher's terms alone.
        patient: whoever it belongs to; a patient is never in two splits.
        split: train, val or test where the index fixes it, else None.
    """

    image: str
    mask: str | None
    patient: str
    split: str | None = None


def read_index(path: Path) -> tuple[Row, ...]:
    """Reads the index: CSV with a header, comma or semicolon, UTF-8 with or without a byte order mark.

    Raises:
        OmniFedError: OF201 missing, OF202 columns missing or no text, OF203 empty, OF205 wrong or incomplete split
            column, OF206 a patient in two splits.
    """
    if not path.is_file():
        raise OmniFedError(
            "OF201",
            "A site folder must hold an index.csv.",
            seen=str(path),
            remedy="Write a CSV with the columns image, mask, patient: one line an image; the mask may be empty.",
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
        header = text.split("\n", 1)[0]
        delimiter = ";" if ";" in header and "," not in header else ","
        lines = list(csv.reader(io.StringIO(text), delimiter=delimiter))
    except (UnicodeDecodeError, csv.Error) as error:
        raise _wrong_columns(path, str(error)) from None
    names = [name.strip().lower() for name in lines[0]] if lines else []
    missing = [name for name in ("image", "mask", "patient") if name not in names]
    if missing:
        raise _wrong_columns(path, f"without {', '.join(missing)}")
    rows = tuple(_row(dict(zip(names, line, strict=False))) for line in lines[1:] if any(cell.strip() for cell in line))
    if not rows:
        raise OmniFedError(
            "OF203",
            "An index must name at least one image.",
            seen=f"{path}: no line below the header",
            remedy="Add one line an image.",
        )
    _check_splits(rows, path)
    return rows


def _row(values: dict[str, str]) -> Row:
    def cell(name: str) -> str:
        return values.get(name, "").strip()

    # An index written under Windows names folders with backslashes.
    image, mask = cell("image").replace("\\", "/"), cell("mask").replace("\\", "/")
    return Row(image, mask or None, cell("patient"), cell("split").lower() or None)


def _wrong_columns(path: Path, why: str) -> OmniFedError:
    return OmniFedError(
        "OF202",
        "An index must be a UTF-8 CSV with the columns image, mask and patient.",
        seen=f"{path}: {why}",
        remedy="Add the missing column; leave its cells empty where an image has no mask.",
    )


def _check_splits(rows: tuple[Row, ...], path: Path) -> None:
    if not any(row.split for row in rows):
        return
    wrong = {row.split for row in rows if row.split} - {"train", "val", "test"}
    blank = sum(1 for row in rows if row.mask and not row.split)
    if wrong or blank:
        raise OmniFedError(
            "OF205",
            "A split column must say train, val or test for every image that has a mask.",
            seen=f"{path}: {', '.join(sorted(map(str, wrong))) or f'{blank} empty cells'}",
            remedy="Fill the column, or remove it and let the site's [splits] decide.",
        )
    by_patient: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        if row.split and row.patient:
            by_patient[row.patient].add(row.split)
    torn = sorted(patient for patient, splits in by_patient.items() if len(splits) > 1)
    if torn:
        raise OmniFedError(
            "OF206",
            "All images of a patient must be in one split.",
            seen=f"{path}: {len(torn)} patients in two splits, the first {torn[0]}",
            remedy="Correct the split column.",
        )
