"""Predicts images, volumes and series with an exported model. Needs neither torch nor onnx."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from omnifed.data.normalise import Scale, apply_scale, case_scale, to_channels
from omnifed.data.overlay import SIDE
from omnifed.data.readers.base import reading
from omnifed.data.readers.registry import reading_run
from omnifed.errors import OmniFedError
from omnifed.export.card import ExportCard, View
from omnifed.predict.find import Item, Overlay, find
from omnifed.predict.network import Model, segment
from omnifed.predict.pictures import LARGEST, SliceFolder, drawn, shown_slices, write_sheet
from omnifed.predict.result import Failed, LabelSize, Prediction, Report
from omnifed.predict.room import need_room, writable
from omnifed.predict.source import Source, open_source, write_png

Progress = Callable[[float, int, str], None]
"""``progress(inputs done, with a part for the slices of the present one; inputs; name of the present one)``."""
_STOPS = ("OF103", "OF623")
"""The output is at fault, not this input: the next would fail as well."""


def predict_all(
    session: Model,
    source: Path,
    target: Path,
    *,
    overlay: Overlay = "sheet",
    view: Literal["auto", "resize", "window"] = "auto",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Segments an input or a folder of inputs.

    Images become index PNGs, NIfTI volumes label maps on the same voxels, DICOM series DICOM SEG. Volumes are read
    slice by slice. An input that cannot be segmented is in the report and does not stop the others.

    Args:
        session: the model, of :func:`omnifed.export.session.load`.
        source: a file, or a folder that is searched with its sub-folders; the DICOM files of a folder are one series.
        target: a folder, which is made; or a file name where the input is one thing.
        overlay: pictures beside the label maps: of a volume a contact sheet, or every slice in a folder.
        view: how an image of another size is shown to the network; ``auto`` as the model says.
        overwrite: replace outputs that exist.
        progress: called after each slice.

    Raises:
        OmniFedError: before any work OF620 no input, OF621 input and output mixed, OF622 an output exists, OF623 no
            place to write, OF624 a wrong output name; OF103 where writing fails later: what is finished stays.
    """
    items = find(source, target, overlay, overwrite=overwrite)
    for folder in sorted({item.output.parent for item in items}):
        writable(folder)
    chosen: View = session.card.view if view == "auto" else view
    done: list[Prediction] = []
    failed: list[Failed] = []
    with reading_run():
        for number, item in enumerate(items):

            def at(share: float, number: int = number, name: str = item.source.name) -> None:
                if progress:
                    progress(number + share, len(items), name)

            at(0)
            try:
                done.append(_predict(session, item, chosen, overlay, at))
            except OmniFedError as error:
                if error.code in _STOPS:
                    raise
                failed.append(Failed(str(item.source), error.code, str(error)))
            at(1)
    return Report(session.sha256, tuple(done), tuple(failed))


def _predict(model: Model, item: Item, view: View, overlay: Overlay, at: Callable[[float], None]) -> Prediction:
    begin, card = time.perf_counter(), model.card
    voi = card.normalisation.kind in ("minmax", "rgb")  # as in training
    folder = item.output.parent
    source = open_source(item.kind, item.source, item.files, slice_axis=card.slice_axis, voi=voi, scratch=folder)
    need_room(folder, source.masks.nbytes // 8)  # label maps are packed, or a bit a pixel
    with contextlib.ExitStack() as stack:
        slices = None
        if overlay == "slices" and item.kind != "image" and item.overlay:
            slices = SliceFolder(item.overlay)
            stack.callback(slices.discard)
        scale, counts = _masks(model, item.source, source, view, slices, at)
        source.write(item.output, model)
        if slices:
            slices.publish()
    if item.overlay and not slices:
        _draw(item, source, card, scale, counts)
    return Prediction(
        source=str(item.source),
        kind=item.kind,
        outputs=(str(item.output),),
        overlays=(str(item.overlay),) if item.overlay else (),
        slices=len(source.masks),
        labels=_sizes(counts.sum(0), source.voxel_ml, card.labels),
        warnings=source.warnings,
        seconds=round(time.perf_counter() - begin, 3),
    )


def _masks(
    model: Model, path: Path, source: Source, view: View, slices: SliceFolder | None, at: Callable[[float], None]
) -> tuple[Scale, np.ndarray]:
    """Fills the source's masks; returns the normalisation and the pixels of each label (n, classes)."""
    card, n = model.card, len(source.masks)
    values = source.masks.size * card.channels
    scale = case_scale(
        (to_channels(image, card.channels) for image in _pixels(path, source, range(n))), values, card.normalisation
    )
    counts = np.zeros((n, len(card.labels)), np.int64)
    for k, image in enumerate(_pixels(path, source, range(n))):
        plane = apply_scale(to_channels(image, card.channels), image, card.normalisation, scale)
        source.masks[k] = segment(model, plane, view)
        counts[k] = np.bincount(source.masks[k].ravel(), minlength=len(card.labels))
        if slices:
            slices.add(drawn(plane, source.masks[k], card.normalisation))
        at((k + 1) / (n + 1))  # the last part is writing
    return scale, counts


def _draw(item: Item, source: Source, card: ExportCard, scale: Scale, counts: np.ndarray) -> None:
    """The overlay of one image, or the contact sheet of a volume: its slices are read once more."""
    assert item.overlay is not None
    single = len(source.masks) == 1
    numbers = [0] if single else shown_slices(counts[:, 1:].sum(1).tolist())
    longest = LARGEST if single else 2 * SIDE
    tiles = []
    for k, image in zip(numbers, _pixels(item.source, source, numbers), strict=True):
        plane = apply_scale(to_channels(image, card.channels), image, card.normalisation, scale)
        tiles.append(drawn(plane, source.masks[k], card.normalisation, longest=longest))
    if single:
        write_png(item.overlay, Image.fromarray(tiles[0]))
    else:
        write_sheet(item.overlay, tiles, numbers, card.labels)


def _pixels(path: Path, source: Source, chosen: Sequence[int]) -> Iterator[np.ndarray]:
    """The source's slices; damage is found when a slice is decoded."""
    stream = source.pixels(chosen)
    while True:
        with reading(path):
            image = next(stream, None)
        if image is None:
            return
        yield image


def _sizes(pixels: np.ndarray, voxel_ml: float | None, labels: dict[int, str]) -> dict[str, LabelSize]:
    return {
        name: LabelSize(int(pixels[label]), None if voxel_ml is None else float(pixels[label]) * voxel_ml)
        for label, name in labels.items()
        if label
    }
