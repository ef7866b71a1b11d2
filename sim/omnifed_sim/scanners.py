"""Gives each hospital of one cut site a scanner of its own: its images are copied through a fixed distortion."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

from omnifed.data.case import Case, read_case
from omnifed.data.index import Row
from omnifed.data.site import IGNORE, SiteConfig
from omnifed.data.site_folder import Site

_FULL = 65535.0


@dataclass(frozen=True)
class Scanner:
    """What a made hospital does to every image (0..1): gain, contrast, blur in 1/128 of the width, noise, cast."""

    gamma: float
    contrast: float
    blur: float
    noise: float
    cast: tuple[float, float, float]

    def scan(self, pixels: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
        """Sends (H, W) or (H, W, 3) with values 0..1 through this scanner."""
        sigma = self.blur * pixels.shape[1] / 128
        pixels = gaussian_filter(pixels, (sigma, sigma, 0)[: pixels.ndim]) ** self.gamma
        pixels = (pixels - 0.5) * self.contrast + 0.5
        if pixels.ndim == 3:
            pixels = pixels * np.array(self.cast, np.float32)
        return np.clip(pixels + self.noise * rng.standard_normal(pixels.shape, np.float32), 0, 1)


def scanner_of(number: int, k: int, seed: int) -> Scanner:
    """The scanner of hospital ``number`` of ``k``: each property is spread over its range in an order of its own."""
    rng = np.random.default_rng([seed, 1])
    ranks = [rng.permutation(k)[number - 1] / max(k - 1, 1) for _ in range(4)]
    tints = np.random.default_rng([seed, 2, number]).uniform(0.85, 1.1, 3)
    return Scanner(
        gamma=0.6 * (1.7 / 0.6) ** ranks[0],
        contrast=0.65 + 0.55 * ranks[1],
        blur=1.2 * ranks[2],
        noise=0.08 * ranks[3],
        cast=(tints[0], tints[1], tints[2]),
    )


def copied(config: SiteConfig) -> SiteConfig:
    """The configuration for copies: label ids as they are, CT values in 16 bits of the window."""
    values = {label: label for label in config.labels} | {IGNORE: IGNORE}
    normalisation = config.normalisation.model_copy(update={"window": (0.0, _FULL)})
    return config.model_copy(update={"mask_values": values, "normalisation": normalisation})


def copy_row(folder: Path, site: Site, row: Row, number: int, scanner: Scanner) -> list[Row]:
    """Writes the slices of a row as PNG; an unreadable row stays in the index, so that it is counted and named."""
    cases, _ = read_case(site, row)
    made = []
    for place, case in enumerate(cases):
        stem = f"{number:05d}_{place:04d}.png"
        rng = np.random.default_rng([number, place])
        (folder / "images").mkdir(exist_ok=True)
        _picture(scanner.scan(_unit(case, site.config), rng), site.config).save(
            folder / "images" / stem, compress_level=1
        )
        mask = None
        if case.mask is not None:
            (folder / "masks").mkdir(exist_ok=True)
            mask = f"masks/{stem}"
            Image.fromarray(case.mask).save(folder / mask)
        made.append(Row(f"images/{stem}", mask, row.patient))
    return made or [row]


def _unit(case: Case, config: SiteConfig) -> NDArray[np.float32]:
    """Native pixels to 0..1, by the site's own window or percentiles."""
    pixels = case.pixels.astype(np.float32)
    kind = config.normalisation.kind
    if kind == "rgb":
        low, high = 0.0, float(np.iinfo(case.pixels.dtype).max) if case.pixels.dtype.kind in "ui" else 1.0
    elif kind == "window":
        low, high = config.normalisation.window
    else:
        low, high = np.percentile(pixels, config.normalisation.percentiles)
    return np.asarray(np.clip((pixels - low) / max(high - low, 1e-9), 0, 1))


def _picture(unit: NDArray[np.float32], config: SiteConfig) -> Image.Image:
    """RGB in 8 bits, all else in 16."""
    if unit.ndim == 3 or config.normalisation.kind == "rgb":
        return Image.fromarray(np.rint(unit * 255).astype(np.uint8))
    return Image.fromarray(np.rint(unit * _FULL).astype(np.uint16))
