import json
from pathlib import Path

import numpy as np
import pytest
from made_files import config, disc, grey, index, png, png_site
from PIL import Image

from omnifed.data.check import check_site
from omnifed.data.index import read_index
from omnifed.data.normalise import normalise
from omnifed.data.overlay import PALETTE, contact_sheet, overlay, spread, to_uint8
from omnifed.data.site import IGNORE, Normalisation
from omnifed.data.site_folder import Site, load_site


def test_counts_are_exact(tmp_path: Path) -> None:
    folder = png_site(tmp_path, n=4)
    png(folder / "wide.png", grey(9, 48)[:32])
    index(folder, *[f"i{k}.png,m{k}.png,p{k}" for k in range(4)], "wide.png,,u", "absent.png,,v")
    site = Site(
        config(labels={0: "background", 1: "disc", 2: "never"}, unreadable_limit=0.2),
        folder,
        read_index(folder / "index.csv"),
    )
    report = check_site(site, sheet=tmp_path / "sheet.png")
    assert (report.rows, report.slices, report.labelled, report.patients) == (6, 5, 4, 5)
    assert report.sizes == {"32x32": 4, "48x32": 1}
    assert report.labels[1].slices == 4
    assert report.labels[1].share == pytest.approx(disc().mean())
    assert [(s.name, s.code) for s in report.skipped] == [("absent.png", "OF210")]
    assert report.share == pytest.approx(1 / 6)
    assert report.ok
    assert report.warnings == ("label 2 (never) occurs in no mask",)
    assert sum(report.splits.values()) == 5
    assert json.loads(report.model_dump_json())["skipped"][0]["code"] == "OF210"
    sheet = Image.open(tmp_path / "sheet.png")
    assert sheet.width > 5 * 192
    assert oct((tmp_path / "sheet.png").stat().st_mode)[-3:] == "600"


def test_the_limit_decides(tmp_path: Path) -> None:
    folder = png_site(tmp_path, n=4)
    (folder / "i0.png").write_bytes(b"gone")
    assert not check_site(load_site(folder)).ok
    nothing = Site(config(unreadable_limit=1.0), folder, read_index(index(folder, "absent.png,,p") / "index.csv"))
    report = check_site(nothing)
    assert not report.ok
    assert report.slices == 0


def test_overlay_tints_labels_and_leaves_the_rest() -> None:
    image = np.full((5, 5), 100, np.uint8)
    mask = np.zeros((5, 5), np.uint8)
    mask[1:4, 1:4] = 2
    mask[0, 0] = IGNORE
    out = overlay(image, mask, alpha=0.5)
    assert out[0, 0].tolist() == out[4, 4].tolist() == [100, 100, 100]
    assert out[1, 1].tolist() == PALETTE[2].tolist()  # the border is drawn in full
    assert out[2, 2].tolist() == np.rint(0.5 * 100 + 0.5 * PALETTE[2].astype(float)).astype(int).tolist()
    assert (overlay(np.repeat(image[..., None], 3, 2), np.full((5, 5), 31, np.uint8), alpha=1) == PALETTE[1]).all()


def test_prepared_images_are_shown_as_they_were() -> None:
    rgb = np.stack([grey(1), grey(2), grey(3)], -1)
    (prepared,) = normalise([rgb], Normalisation(kind="rgb"), 3)
    assert np.abs(to_uint8(prepared.astype(np.float16)).astype(int) - rgb).max() <= 1
    (one,) = normalise([grey(1)], Normalisation(kind="minmax"), 1)
    shown = to_uint8(one)
    assert shown.shape == (32, 32, 3)
    assert (shown[..., 0].min(), shown[..., 0].max()) == (0, 255)
    assert (spread(np.full((3, 3), 5.0)) == 0).all()


def test_contact_sheet_of_odd_tiles() -> None:
    tiles = [np.zeros((4, 400, 3), np.uint8), np.zeros((300, 5, 3), np.uint8)]
    sheet = contact_sheet(tiles, ["a", "a/very/long/path/" * 9 + "end.png"], {0: "background", 1: "x"}, side=64)
    assert sheet.size[0] == 2 * 70 + 6
