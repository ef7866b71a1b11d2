"""Writes the phantom sites of a preset: complete site folders, bit for bit the same for the same seed."""

from __future__ import annotations

import csv
import io
import json
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from omnifed.data.propose import write_site_toml
from omnifed.data.site import SiteConfig
from omnifed.errors import OmniFedError
from omnifed.files import write_atomic, write_json
from omnifed_sim.phantoms.formats import write_case
from omnifed_sim.phantoms.plans import PRESETS, RARE_WHEN_JUDGED, Plan, Preset
from omnifed_sim.phantoms.stream import PHANTOMS

VERSION = 1
"""Goes up whenever the same seed gives other pixels; folders of another version are written anew."""
STAMP = ".phantom.json"

Progress = Callable[[int, int, str], None]


def write_preset(
    preset: Preset,
    out: Path,
    *,
    seed: int = 0,
    image_size: int = 128,
    scale: float = 1.0,
    progress: Progress | None = None,
) -> list[Path]:
    """Writes every site of ``preset`` below ``out``; complete folders of the same arguments are kept.

    Args:
        preset: ``modalities`` or ``hospitals``.
        out: parent of the site folders.
        seed: of all patients.
        image_size: height and width in ``site.toml``; a multiple of 32.
        scale: factor on the number of slices of each split.
        progress: called once a site with (done, total, name).

    Returns:
        The site folders, in the order of the preset.

    Raises:
        OmniFedError: OF250 if a folder of a site's name is there that is no phantom site.
    """
    plans = PRESETS[preset]
    folders = []
    for number, plan in enumerate(plans):
        if progress:
            progress(number, len(plans), plan.name)
        stamp = {"version": VERSION, "preset": preset, "seed": seed, "image_size": image_size, "scale": scale}
        folder = out / plan.name
        if _stamp(folder) != stamp:
            _replace(folder, plan, [zlib.crc32(preset.encode()), seed, number], stamp)
        folders.append(folder)
    if progress:
        progress(len(plans), len(plans), "phantom sites written")
    return folders


def _stamp(folder: Path) -> dict[str, Any] | None:
    """The arguments that made ``folder``; None where there is no folder.

    A folder gets its name only once it is complete, so that a stamp that can be read is a complete site.
    """
    if not folder.exists():
        return None
    try:
        return dict(json.loads((folder / STAMP).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        raise OmniFedError(
            "OF250",
            "A phantom site is written only over a phantom site.",
            seen=str(folder),
            remedy="Choose another output folder, or move this one away.",
        ) from None


def _replace(folder: Path, plan: Plan, seeds: list[int], stamp: dict[str, Any]) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    # the folder's name goes into the files, so the site is written below a temporary parent under its own name
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".phantom-") as part:
        made = Path(part) / plan.name
        made.mkdir()
        _write_site(made, plan, seeds, stamp["image_size"], stamp["scale"])
        write_json(made / STAMP, stamp)
        if folder.exists():
            shutil.rmtree(folder)
        made.rename(folder)


def _write_site(folder: Path, plan: Plan, seeds: list[int], image_size: int, scale: float) -> None:
    phantom = PHANTOMS[plan.phantom]
    config = SiteConfig(
        name=plan.name,
        modality=phantom.modality,
        labels=dict(phantom.labels),
        channels=phantom.channels,
        image_size=(image_size, image_size),
        normalisation=phantom.normalisation,
    )
    index = io.StringIO()
    table = csv.writer(index, lineterminator="\n")
    table.writerow(["image", "mask", "patient", "split"])
    size = round(image_size * plan.resolution)
    for patient, (split, labelled, slices) in enumerate(_patients(plan, seeds, scale)):
        look = plan.look if split == "train" else plan.look.model_copy(update={"rare": RARE_WHEN_JUDGED})
        drawn = int(np.random.SeedSequence([*seeds, patient]).generate_state(1, np.uint64)[0] >> np.uint64(2))
        key = f"p{patient:03d}"
        pairs = [(image, mask if labelled else None) for image, mask in phantom.patient(drawn, slices, size, look)]
        for image_path, mask_path in write_case(phantom, key, pairs, folder):
            table.writerow([image_path, mask_path, key, split])
    write_atomic(folder / config.index, index.getvalue().encode())
    write_site_toml(config, folder / "site.toml")


def _patients(plan: Plan, seeds: list[int], scale: float) -> Iterator[tuple[str, bool, int]]:
    """Yields (split, labelled, slices) a patient: 2..5 slices, 2..3 where methods are judged (more patients)."""
    rng = np.random.default_rng([*seeds, 2**31])
    for split, labelled, wanted, most in (
        ("train", True, plan.train, 5),
        ("train", False, plan.unlabelled, 5),
        ("val", True, plan.val, 3),
        ("test", True, plan.test, 3),
    ):
        left = max(2, round(wanted * scale))
        while left:
            slices = min(left, int(rng.integers(2, most + 1)))
            yield split, labelled, slices
            left -= slices
