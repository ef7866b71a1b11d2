import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from made_files import config, dicom, disc, grey, index, nifti, png, png_site

from omnifed.data.index import read_index
from omnifed.data.prepare import prepare
from omnifed.data.site import IGNORE, Splits
from omnifed.data.site_folder import Site, load_site
from omnifed.errors import OmniFedError


def site_of(folder: Path, **changes: object) -> Site:
    return Site(config(**changes), folder, read_index(folder / "index.csv"))


def test_a_site_becomes_arrays(tmp_path: Path) -> None:
    site = load_site(png_site(tmp_path / "site", n=6))
    calls: list[tuple[int, int]] = []
    data = prepare(site, tmp_path / "out", progress=lambda done, total, _: calls.append((done, total)))
    assert calls == [(k, 6) for k in range(1, 7)]
    assert (len(data.train), len(data.val), len(data.test)) == (3, 1, 2)
    assert data.skipped == data.warnings == ()
    train = data.train
    assert train.images.shape == (3, 1, 32, 32)
    assert train.images.dtype == np.float16
    assert isinstance(train.images, np.memmap)
    assert np.abs(train.images).max() <= 1
    for mask in train.masks:
        np.testing.assert_array_equal(mask, disc())
    assert train.has_mask.all()
    assert train.present.tolist() == [True, True]
    assert np.isnan(train.spacing).all()
    assert train.spacing.shape == (3, 2)
    assert len(set(train.keys)) == 3
    assert {len(key) for key in train.keys} == {64}
    patients = [set(split.patients) for split in (data.train, data.val, data.test)]
    assert sum(map(len, patients)) == len(set.union(*patients)) == 6


def test_derived_files_are_private_and_ids_salted(tmp_path: Path) -> None:
    site = load_site(png_site(tmp_path / "site"))
    a, b = prepare(site, tmp_path / "a"), prepare(site, tmp_path / "b")
    assert set(a.train.ids).isdisjoint(b.train.ids)
    assert a.train.keys == b.train.keys
    assert oct((tmp_path / "a").stat().st_mode)[-3:] == "700"
    for file in (tmp_path / "a").rglob("*"):
        if file.is_file() and file.name != ".lock":
            assert oct(file.stat().st_mode)[-3:] == "600", file


def test_prepared_data_is_reused_until_something_changes(tmp_path: Path) -> None:
    folder = png_site(tmp_path / "site")
    calls: list[int] = []

    def run(**options: object) -> set[str]:
        calls.clear()
        prepare(load_site(folder), tmp_path / "out", progress=lambda done, *_: calls.append(done), **options)  # type: ignore[arg-type]
        return {p.name for p in (tmp_path / "out").iterdir() if p.is_dir()}

    assert len(run()) == 1
    assert calls
    assert len(run()) == 1
    assert not calls
    png(folder / "i0.png", grey(99))
    os.utime(folder / "i0.png", ns=(1, 1))
    assert len(run()) == 2
    assert calls
    assert len(run(image_size=(64, 32))) == 3
    with pytest.raises(OmniFedError, match="OF102"):
        run(image_size=(33, 32))


def test_an_interrupted_preparation_leaves_nothing_half(tmp_path: Path) -> None:
    site = load_site(png_site(tmp_path / "site"))

    def stop(done: int, total: int, text: str) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(site, tmp_path / "out", progress=stop)
    assert not [p for p in (tmp_path / "out").iterdir() if p.is_dir()]
    assert len(prepare(site, tmp_path / "out").train) == 3


def test_a_killed_preparation_is_swept_away(tmp_path: Path) -> None:
    site = load_site(png_site(tmp_path / "site"))
    done = prepare(site, tmp_path / "out")
    (folder,) = (p for p in (tmp_path / "out").iterdir() if p.is_dir())
    folder.rename(folder.with_name(f".{folder.name}.part"))
    (folder.with_name(f".{folder.name}.part") / "meta.json").unlink()
    again = prepare(site, tmp_path / "out")
    assert again.train.ids == done.train.ids
    assert [p.name for p in (tmp_path / "out").iterdir() if p.is_dir()] == [folder.name]


def test_what_is_broken_is_skipped_counted_and_named(tmp_path: Path) -> None:
    folder = tmp_path / "site"
    for k in range(4):
        png(folder / f"i{k}.png", grey(k))
        png(folder / f"m{k}.png", disc())
    png(folder / "small.png", disc(16))
    png(folder / "seven.png", disc(value=7))
    (folder / "cut.png").write_bytes((folder / "i0.png").read_bytes()[:200])
    (folder / "text.png").write_text("no image")
    nan = np.full((32, 32, 2), 1, np.float32)
    nan[0, 0, 0] = np.nan
    nifti(folder / "nan.nii", nan)
    dicom(folder / "cut.dcm", np.zeros((32, 32)))
    (folder / "cut.dcm").write_bytes((folder / "cut.dcm").read_bytes()[:-9])
    dicom(folder / "two" / "a.dcm", np.zeros((32, 32)))
    dicom(folder / "two" / "b.dcm", np.zeros((32, 32)), SeriesInstanceUID="1.2.3")
    index(
        folder,
        *[f"i{k}.png,m{k}.png,p{k}" for k in range(4)],
        "i0.png,small.png,a",
        "i0.png,seven.png,b",
        "i0.png,absent.png,c",
        "cut.png,m0.png,d",
        "text.png,m0.png,e",
        "nan.nii,,f",
        "cut.dcm,m0.png,g",
        "two,,h",
        "absent.png,,i",
        "i0.png,m0.png,",
    )
    data = prepare(site_of(folder), tmp_path / "out")
    assert {s.name + " " + s.code for s in data.skipped} == {
        "i0.png OF219", "i0.png OF220", "i0.png OF218", "cut.png OF212", "text.png OF211", "nan.nii#1 OF217",
        "cut.dcm OF212", "two OF215", "absent.png OF210", "i0.png OF204",
    }  # fmt: skip
    assert len(data.train) + len(data.val) + len(data.test) == 4 + 1  # the finite slice of nan.nii
    again = prepare(site_of(folder), tmp_path / "out")
    assert again.skipped == data.skipped


def test_unlabelled_images_train(tmp_path: Path) -> None:
    folder = png_site(tmp_path / "site", n=6)
    index(folder, *[f"i{k}.png,{f'm{k}.png' if k < 4 else ''},p{k}" for k in range(6)])
    data = prepare(site_of(folder), tmp_path / "out")
    assert data.val.has_mask.all()
    assert data.test.has_mask.all()
    assert data.train.has_mask.sum() == len(data.train) - 2
    assert (data.train.masks[~data.train.has_mask] == IGNORE).all()
    index(folder, *[f"i{k}.png,,p{k}" for k in range(6)])
    bare = prepare(site_of(folder), tmp_path / "out")
    assert (len(bare.train), len(bare.val), len(bare.test)) == (6, 0, 0)
    assert bare.train.present.all()
    assert any("no training mask" in text for text in bare.warnings)


def test_one_image_trains_and_a_missing_split_has_a_number(tmp_path: Path) -> None:
    data = prepare(load_site(png_site(tmp_path / "site", n=1)), tmp_path / "out")
    assert data.need("train") is data.train
    assert data.val.images.shape == (0, 1, 32, 32)
    assert data.val.spacing.shape == (0, 2)
    for split in ("val", "test"):
        with pytest.raises(OmniFedError, match="OF208"):
            data.need(split)


def test_nothing_readable_has_a_number(tmp_path: Path) -> None:
    with pytest.raises(OmniFedError, match="OF225"):
        prepare(site_of(index(tmp_path / "site", "absent.png,,p")), tmp_path / "out")


def test_an_absent_class_is_known_and_255_is_mapped(tmp_path: Path) -> None:
    folder = png_site(tmp_path / "site", n=4)
    labels = {0: "background", 1: "disc", 2: "never"}
    data = prepare(site_of(folder, labels=labels), tmp_path / "out")
    assert data.train.present.tolist() == [True, True, False]
    assert data.warnings == ("label 2 (never) occurs in no training mask: the loss leaves it out",)
    for k in range(4):
        png(folder / f"m{k}.png", disc(value=255))
    assert prepare(site_of(folder, mask_values={255: 1}), tmp_path / "out").train.masks.max() == 1


def test_volumes_expand_to_slices_that_stay_with_their_patient(tmp_path: Path) -> None:
    folder = tmp_path / "site"
    rng = np.random.default_rng(0)
    for p in range(3):
        nifti(folder / f"i{p}.nii", rng.normal(size=(40, 64, 3)).astype(np.float32), np.diag([1, 2.0, 3, 1]))
        mask = np.zeros((40, 64, 3), np.uint8)
        mask[..., 1] = 1
        nifti(folder / f"m{p}.nii", mask, np.diag([1, 2.0, 3, 1]))
    index(folder, *[f"i{p}.nii,m{p}.nii,p{p}" for p in range(3)])
    data = prepare(site_of(folder, image_size=(32, 32)), tmp_path / "out")
    assert [len(split) for split in (data.train, data.val, data.test)] == [3, 3, 3]
    assert all(len(set(split.patients)) == 1 for split in (data.train, data.val, data.test))
    assert [int(m.max()) for m in data.train.masks] == [0, 1, 0]  # slices of background stay
    np.testing.assert_allclose(data.train.spacing, [[2 * 64 / 32, 40 / 32]] * 3)


def test_folds_partition_the_patients(tmp_path: Path) -> None:
    folder = png_site(tmp_path / "site", n=6)
    tested: list[str] = []
    for fold in range(3):
        data = prepare(site_of(folder, splits=Splits(folds=3, fold=fold)), tmp_path / "out")
        tested += data.test.patients
    assert sorted(tested) == [f"p{k}" for k in range(6)]
    with pytest.raises(OmniFedError, match="OF207"):
        prepare(site_of(folder, splits=Splits(folds=7)), tmp_path / "out")
    assert not list((tmp_path / "out").glob(".*.part"))


def test_real_dicom_slices_with_0_and_255_masks(real_data: Path, tmp_path: Path) -> None:
    site = load_site(real_data / "chaos_ct")
    data = prepare(Site(site.config, site.root, site.rows[:12]), tmp_path / "out", image_size=(64, 64))
    assert not data.skipped
    assert data.train.spacing[0] == pytest.approx(0.7265625 * 8)
    assert 0.05 < np.mean(data.train.masks == 1) < 0.25  # a liver
    liver = data.train.images[:, 0][data.train.masks == 1]
    assert 0.0 < float(np.median(liver)) < 1.0  # brighter than water in the window of -160..240 HU
    assert "optimistic" in data.warnings[0]


def test_no_torch_is_imported() -> None:
    code = "import sys, omnifed.data.prepare, omnifed.data.check, omnifed.cli.data; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
