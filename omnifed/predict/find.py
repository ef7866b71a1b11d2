"""What is to be predicted, and where it goes: settled before anything is read or written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from omnifed.errors import OmniFedError
from omnifed.predict.result import Kind

Overlay = Literal["none", "sheet", "slices"]
_DICOM = (".dcm", ".dicom", ".ima")
_NIFTI = (".nii.gz", ".nii")
_TEXT = (".csv", ".html", ".json", ".log", ".md", ".pdf", ".toml", ".tsv", ".txt", ".xml", ".yaml", ".yml")
_RASTER = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
_ENDS: dict[Kind, tuple[str, ...]] = {"image": (".png",), "nifti": (".nii.gz", ".nii"), "dicom": (".dcm",)}
"""Suffixes of a label map."""


@dataclass(frozen=True)
class Item:
    """One thing to predict.

    Attributes:
        source: file, or folder of a DICOM series.
        kind: how it is read.
        files: what it consists of.
        output: the label map.
        overlay: the picture, or the folder of pictures.
    """

    source: Path
    kind: Kind
    files: tuple[Path, ...]
    output: Path
    overlay: Path | None


def find(source: Path, target: Path, overlay: Overlay, *, overwrite: bool) -> list[Item]:
    """Lists the inputs and their outputs.

    The DICOM files of one folder are one series; every other file is an input of its own. Hidden files and DICOMDIR are
    passed over. Sub-folders are kept.

    Args:
        source: a file, or a folder that is searched with its sub-folders.
        target: a folder; or, where the input is one thing, a file with the suffix of its label map.
        overlay: which pictures are to be written.
        overwrite: whether outputs may exist.

    Raises:
        OmniFedError: OF620 nothing there, OF621 inputs and outputs mixed, OF622 an output exists, OF624 a file's name
            for what cannot be one file of that name.
    """
    found = list(_found(source))
    if not found:
        raise OmniFedError(
            "OF620",
            "The input must be a file, or a folder with images.",
            seen=f"{source}: {'no image in it' if source.is_dir() else 'not there'}",
            remedy="Name an image, a NIfTI file, a DICOM file, or a folder of these.",
        )
    named = not target.is_dir() and any(target.name.lower().endswith(end) for ends in _ENDS.values() for end in ends)
    if named:
        items = [_as_file(found, target, overlay)]
    else:
        items = [_in_folder(path, kind, files, source, target, overlay) for path, kind, files in found]
    _apart(items, source, target)
    taken = [] if overwrite else [path for item in items for path in _outputs(item) if path.exists()]
    if taken:
        raise OmniFedError(
            "OF622",
            "Predictions that exist are kept.",
            seen=f"{taken[0]}" + (f" and {len(taken) - 1} more" if len(taken) > 1 else ""),
            remedy="Name another --output, or use --overwrite.",
        )
    return items


def _found(source: Path) -> Iterator[tuple[Path, Kind, tuple[Path, ...]]]:
    if source.is_file():
        yield source, _kind(source), (source,)
        return
    been: set[Path] = set()
    for name, folders, names in os.walk(source, followlinks=True):
        folder = Path(name)
        if folder.resolve() in been:  # a link back to where we came from
            folders.clear()
            continue
        been.add(folder.resolve())
        folders[:] = sorted(part for part in folders if not part.startswith("."))
        files = [folder / n for n in sorted(names) if not n.startswith(".") and not _beside(n)]
        kinds = {file: _kind(file) for file in files if file.is_file() or file.is_symlink()}
        series = tuple(file for file, kind in kinds.items() if kind == "dicom")
        if series:
            yield folder, "dicom", series
        yield from ((file, kind, (file,)) for file, kind in kinds.items() if kind != "dicom")


def _beside(name: str) -> bool:
    """What people keep beside images. Anything else that turns out to be no image is reported as failed."""
    return name == "DICOMDIR" or name.lower().endswith(_TEXT)


def _kind(path: Path) -> Kind:
    """By content as far as it tells, as hospital exports often have no suffix."""
    name = path.name.lower()
    if name.endswith(_NIFTI):
        return "nifti"
    if name.endswith(_DICOM):
        return "dicom"
    try:
        with path.open("rb") as file:
            return "dicom" if file.read(132)[128:] == b"DICM" else "image"
    except OSError:  # reported when it is read
        return "image"


def _in_folder(path: Path, kind: Kind, files: tuple[Path, ...], source: Path, target: Path, overlay: Overlay) -> Item:
    stem = _stem(path) if path in files else path.resolve().name
    folder = target / (path.parent.relative_to(source) if path != source else Path())
    output = folder / {"image": f"{stem}.png", "nifti": f"{stem}_seg.nii.gz", "dicom": f"{stem}_seg.dcm"}[kind]
    return Item(path, kind, files, output, _overlay(folder, stem, kind, overlay))


def _as_file(found: list[tuple[Path, Kind, tuple[Path, ...]]], target: Path, overlay: Overlay) -> Item:
    path, kind, files = found[0]
    if len(found) > 1 or not target.name.lower().endswith(_ENDS[kind]):
        raise OmniFedError(
            "OF624",
            "An output file takes the prediction of one input, and has the suffix of its kind: .png, .nii.gz or .dcm.",
            seen=f"{target.name} for {f'{len(found)} inputs' if len(found) > 1 else 'an input of kind ' + kind}",
            remedy="Name a folder as --output, or give the file that suffix.",
        )
    return Item(path, kind, files, target, _overlay(target.parent, _stem(target), kind, overlay))


def _overlay(folder: Path, stem: str, kind: Kind, overlay: Overlay) -> Path | None:
    if overlay == "none":
        return None
    return folder / (f"{stem}_overlay" if overlay == "slices" and kind != "image" else f"{stem}_overlay.png")


def _stem(path: Path) -> str:
    """The name without a suffix that is one: a DICOM UID has dots too."""
    end = next((end for end in (*_NIFTI, *_DICOM, *_RASTER) if path.name.lower().endswith(end)), "")
    return path.name[: len(path.name) - len(end)] or path.name


def _outputs(item: Item) -> list[Path]:
    return [item.output] if item.overlay is None else [item.output, item.overlay]


def _apart(items: list[Item], source: Path, target: Path) -> None:
    """Outputs overwrite no input, do not become inputs of the next run, and do not overwrite one another."""
    here, there = source.resolve(), target.resolve()
    why = f"{target} lies in {source}" if source.is_dir() and there.is_relative_to(here) else ""
    inputs = {file.resolve() for item in items for file in item.files}
    seen: dict[Path, Path] = {}
    for item in items:
        for path in (output.resolve() for output in _outputs(item)):
            if path in inputs:
                why = why or f"{path} is an input"
            if path in seen:
                why = why or f"{seen[path]} and {item.source} would both become {path}"
            seen[path] = item.source
    if why:
        raise OmniFedError(
            "OF621",
            "Predictions must not be written over or among their inputs, nor over one another.",
            seen=why,
            remedy="Name an --output folder outside of the input; rename inputs that differ in their suffix alone.",
        )
