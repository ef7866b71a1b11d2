"""Writes the phantom sites of a preset: complete site folders, bit for bit the same for the same seed."""

from __future__ import annotations

import csv
import io
import zlib
from collections.abc import Iterator
from functools import partial
from math import ceil
from pathlib import Path

import numpy as np

from omnifed.data.propose import write_site_toml
from omnifed.data.site import SiteConfig
from omnifed.files import write_atomic
from omnifed.progress import Progress
from omnifed_sim.made_sites import make_site
from omnifed_sim.phantoms.formats import write_case
from omnifed_sim.phantoms.plans import PRESETS, RARE_WHEN_JUDGED, Plan, Preset
from omnifed_sim.phantoms.stream import PHANTOMS

VERSION = 2
"""Goes up whenever the same seed gives other pixels; folders of another version are written anew."""


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
        OmniFedError: OF250 if a folder of a site's name is there that the simulator did not make.
    """
    plans = PRESETS[preset]
    folders = []
    for number, plan in enumerate(plans):
        if progress:
            progress(number, len(plans), plan.name)
        stamp = {"version": VERSION, "preset": preset, "seed": seed, "image_size": image_size, "scale": scale}
        seeds = [zlib.crc32(preset.encode()), seed, number]
        write = partial(_write_site, plan=plan, seeds=seeds, image_size=image_size, scale=scale)
        folders.append(make_site(out / plan.name, stamp, write))
    if progress:
        progress(len(plans), len(plans), "phantom sites written")
    return folders


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
    for patient, (split, labelled, slices, ill) in enumerate(_patients(plan, seeds, scale)):
        look = plan.look.model_copy(update={"rare": float(ill)})
        drawn = int(np.random.SeedSequence([*seeds, patient]).generate_state(1, np.uint64)[0] >> np.uint64(2))
        key = f"p{patient:03d}"
        pairs = [(image, mask if labelled else None) for image, mask in phantom.patient(drawn, slices, size, look)]
        for image_path, mask_path in write_case(phantom, key, pairs, folder):
            table.writerow([image_path, mask_path, key, split])
    write_atomic(folder / config.index, index.getvalue().encode())
    write_site_toml(config, folder / "site.toml")


def _patients(plan: Plan, seeds: list[int], scale: float) -> Iterator[tuple[str, bool, int, bool]]:
    """Yields (split, labelled, slices, has the rare label) a patient.

    2..4 slices with masks, 2..5 without, 2..3 where methods are judged: more patients. The rare label is dealt, not
    tossed for: a site that sees it seldom sees it at least once.
    """
    rng = np.random.default_rng([*seeds, 2**31])
    for split, labelled, wanted, most in (
        ("train", True, plan.train, 4),
        ("train", False, plan.unlabelled, 5),
        ("val", True, plan.val, 3),
        ("test", True, plan.test, 3),
    ):
        left, number = max(2, round(wanted * scale)), 0
        often = plan.look.rare if split == "train" else RARE_WHEN_JUDGED
        while left:
            slices = min(left, int(rng.integers(2, most + 1)))
            yield split, labelled, slices, ceil((number + 1) * often) > ceil(number * often)
            left, number = left - slices, number + 1
