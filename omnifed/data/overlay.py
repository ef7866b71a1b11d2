"""Pictures for people: masks drawn over images, and sheets of them. Nothing here decides anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw

from omnifed.data.normalise import DEVIATION, MEAN
from omnifed.data.site import IGNORE

PALETTE = np.array(
    [
        (0, 0, 0), (86, 180, 233), (230, 159, 0), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0),
        (204, 121, 167), (136, 34, 85), (153, 153, 51), (221, 221, 221), (51, 34, 136), (17, 119, 51), (136, 204, 238),
        (204, 102, 119), (170, 68, 153),
    ],
    np.uint8,
)  # fmt: skip
"""Colour of each label, colour-blind safe: 1..7 of Okabe and Ito, then Tol's muted scheme; repeats beyond 15."""

SIDE = 192
"""Side of a tile of a contact sheet in pixels."""


def colour(label: int) -> tuple[int, int, int]:
    """Red, green and blue of a label, 0..255."""
    r, g, b = PALETTE[_index(np.array(label))]
    return int(r), int(g), int(b)


def _index(mask: np.ndarray) -> np.ndarray:
    """Label to row of the palette: the background keeps 0, later labels repeat 1..15."""
    return np.where(mask == 0, 0, (mask.astype(np.int64) - 1) % (len(PALETTE) - 1) + 1)


def overlay(image: np.ndarray, mask: np.ndarray, *, alpha: float = 0.45) -> np.ndarray:
    """Draws a mask over an image: tinted inside, full colour along the border.

    Args:
        image: (H, W) or (H, W, 3) uint8.
        mask: (H, W) uint8 label ids; background and ``IGNORE`` leave the image as it is.
        alpha: 0 shows the image, 1 the colour.

    Returns:
        (H, W, 3) uint8.
    """
    base = np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image
    drawn = (mask != 0) & (mask != IGNORE)
    edge = np.zeros_like(drawn)
    for axis in (0, 1):
        step = np.diff(mask, axis=axis) != 0
        pad = [(0, 0), (0, 0)]
        pad[axis] = (0, 1)
        edge |= np.pad(step, pad)
        pad[axis] = (1, 0)
        edge |= np.pad(step, pad)
    weight = np.where(edge & drawn, 1.0, np.where(drawn, alpha, 0.0))[..., None]
    return np.rint(base * (1 - weight) + PALETTE[_index(mask)] * weight).astype(np.uint8)


def to_uint8(image: np.ndarray) -> np.ndarray:
    """A prepared image for display.

    Colour that fits ImageNet's normalisation is turned back to its true colours; anything else is spread between its
    1st and 99th percentile.

    Args:
        image: (C, H, W) normalised, C = 1 or 3.

    Returns:
        (H, W, 3) uint8.
    """
    x = image.astype(np.float32)
    if x.shape[0] == 3 and not (x == x[:1]).all():  # three equal channels are a repeated grey image
        true = x * DEVIATION[:, None, None] + MEAN[:, None, None]
        if true.min() > -0.01 and true.max() < 1.01:
            return np.rint(np.clip(true, 0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)
    return np.repeat(spread(x), 3 // x.shape[0], axis=0).transpose(1, 2, 0)


def spread(values: np.ndarray) -> np.ndarray:
    """Any numbers to uint8 between their 1st and 99th percentile; a constant becomes 0."""
    low, high = np.percentile(values, (1, 99)) if values.size else (0, 0)
    if high <= low:
        low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    if high <= low:
        return np.zeros(values.shape, np.uint8)
    return np.rint(np.clip((values - low) / (high - low), 0, 1) * 255).astype(np.uint8)


def contact_sheet(
    tiles: Sequence[np.ndarray],
    captions: Sequence[str],
    labels: Mapping[int, str],
    *,
    columns: int = 6,
    side: int = SIDE,
) -> Image.Image:
    """Puts pictures on one sheet with the labels' colours below.

    Args:
        tiles: (H, W, 3) uint8 each, any size; scaled to fit a square.
        captions: one short line a tile.
        labels: label id to name.
        columns: tiles in a row.
        side: of a tile in pixels.
    """
    text, gap = 16, 6
    columns = max(1, min(columns, len(tiles)))
    rows = -(-len(tiles) // columns)
    width = columns * (side + gap) + gap
    legend = [(label, name) for label, name in labels.items() if label]
    per_line = max(1, width // 160)
    height = rows * (side + text + gap) + gap + text * -(-len(legend) // per_line) + gap
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (tile, caption) in enumerate(zip(tiles, captions, strict=True)):
        x, y = gap + i % columns * (side + gap), gap + i // columns * (side + text + gap)
        picture = Image.fromarray(np.ascontiguousarray(tile))
        scale = side / max(picture.size)
        picture = picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))))
        sheet.paste(picture, (x + (side - picture.width) // 2, y + (side - picture.height) // 2))
        draw.text((x, y + side + 2), _fit(draw, caption, side), fill="black")
    top = rows * (side + text + gap) + gap
    for i, (label, name) in enumerate(legend):
        x, y = gap + i % per_line * 160, top + i // per_line * text
        draw.rectangle((x, y + 2, x + 10, y + 12), fill=colour(label), outline="black")
        draw.text((x + 15, y + 1), _fit(draw, f"{label} {name}", 140), fill="black")
    return sheet


def _fit(draw: ImageDraw.ImageDraw, text: str, width: float) -> str:
    """The end of a text (of a path: its file) that fits."""
    if draw.textlength(text) <= width:
        return text
    while text and draw.textlength("..." + text) > width:
        text = text[1:]
    return "..." + text
