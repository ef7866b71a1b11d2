import numpy as np
import pytest
from PIL import Image

from omnifed.data.prepare import prepare
from omnifed.data.propose import write_site_toml
from omnifed.data.site import IGNORE, Normalisation, SiteConfig
from omnifed.data.site_folder import load_site
from omnifed.errors import OmniFedError
from omnifed_sim.splitting import split_site


@pytest.fixture
def site(tmp_path):
    """Twelve patients of two slices; patient p has a square of side p + 2, from p08 on with the rare label 2."""
    folder = tmp_path / "clinic"
    folder.mkdir()
    rng = np.random.default_rng(0)
    lines = ["image,mask,patient,split"]
    for p in range(12):
        for s in range(2):
            image = rng.integers(0, 200, (40, 48), dtype=np.uint8)
            mask = np.zeros((40, 48), np.uint8)
            mask[4 : 6 + p, 4 : 6 + p] = 1
            if p >= 8:
                mask[30:33, 30:33] = 2
            mask[0] = IGNORE
            Image.fromarray(image).save(folder / f"{p:02d}{s}.png")
            Image.fromarray(mask).save(folder / f"{p:02d}{s}m.png")
            lines.append(f"{p:02d}{s}.png,{p:02d}{s}m.png,p{p:02d},train")
    for u in range(6):
        Image.fromarray(rng.integers(0, 200, (40, 48), dtype=np.uint8)).save(folder / f"u{u}.png")
        lines.append(f"u{u}.png,,u{u},train")
    (folder / "index.csv").write_text("\n".join(lines))
    config = SiteConfig(
        name="clinic",
        modality="oct",
        labels={0: "background", 1: "square", 2: "spot"},
        image_size=(32, 32),
        normalisation=Normalisation(kind="minmax"),
        mask_values={1: 1, 2: 2, 255: 255},
    )
    write_site_toml(config, folder / "site.toml")
    return folder


def patients(folder):
    rows = load_site(folder).rows
    return {r.patient for r in rows if r.mask}, {r.patient for r in rows if not r.mask}


@pytest.mark.parametrize(
    ("skew", "sizes"), [("none", [4, 4, 4]), ("quantity", [5, 4, 3]), ("label", [4, 4, 4]), ("scanner", [4, 4, 4])]
)
def test_every_patient_goes_to_one_hospital(site, tmp_path, skew, sizes):
    folders = split_site(site, 3, tmp_path / "out", skew=skew)
    assert [f.name for f in folders] == ["clinic-1", "clinic-2", "clinic-3"]
    labelled, unlabelled = zip(*(patients(f) for f in folders), strict=True)
    assert [len(group) for group in labelled] == sizes
    assert set().union(*labelled) == {f"p{p:02d}" for p in range(12)}
    assert sum(map(len, unlabelled)) == 6
    assert set().union(*unlabelled) == {f"u{u}" for u in range(6)}
    for folder in folders:
        data = prepare(load_site(folder), tmp_path / "data" / folder.name)
        assert data.config.name == folder.name
        assert data.skipped == ()
        assert min(len(data.train), len(data.val), len(data.test)) >= 2


def test_quantity_halves_from_hospital_to_hospital(site, tmp_path):
    sizes = [len(patients(f)[0]) for f in split_site(site, 2, tmp_path, skew="quantity")]
    assert sizes == [7, 5]  # three each, and the other six in the ratio 2 : 1
    assert [len(patients(f)[0]) for f in split_site(site, 12, tmp_path, skew="quantity")] == [1] * 12


def test_label_skew_separates_the_rare_label_then_the_foreground(site, tmp_path):
    groups = [patients(f)[0] for f in split_site(site, 3, tmp_path, skew="label")]
    assert groups[0] == {"p08", "p09", "p10", "p11"}  # all that have the spot
    assert groups[1] == {"p04", "p05", "p06", "p07"}  # larger squares
    assert groups[2] == {"p00", "p01", "p02", "p03"}


def test_scanners_change_images_and_keep_masks(site, tmp_path):
    folders = split_site(site, 3, tmp_path / "out", skew="scanner")
    means = []
    for folder in folders:
        made = load_site(folder)
        values = []
        for row in made.rows:
            picture = np.asarray(Image.open(made.path(row.image)))
            assert picture.shape == (40, 48)
            assert picture.dtype == np.uint16
            values.append(picture.mean() / 65535)
            if row.mask:
                p = int(row.patient[1:])
                mask = np.asarray(Image.open(made.path(row.mask)))
                assert (mask == 1).sum() == (p + 2) ** 2
                assert (mask == IGNORE).sum() == 48
        means.append(np.mean(values))
    assert len({round(m, 2) for m in means}) == 3


def test_the_same_cut_is_kept_and_another_replaces_it(site, tmp_path):
    first = split_site(site, 2, tmp_path / "out", skew="scanner")[0] / "index.csv"
    before = first.stat().st_mtime_ns
    groups = patients(first.parent)
    split_site(site, 2, tmp_path / "out", skew="scanner")
    assert first.stat().st_mtime_ns == before
    assert patients(split_site(site, 2, tmp_path / "out", skew="scanner", seed=3)[0]) != groups


def test_more_hospitals_than_patients_is_an_error(site, tmp_path):
    with pytest.raises(OmniFedError, match="OF251") as error:
        split_site(site, 13, tmp_path)
    assert "13" in error.value.seen
    assert "clinic" not in error.value.public


def test_an_unreadable_image_stays_in_the_index_to_be_counted(site, tmp_path):
    (site / "000.png").write_bytes(b"not an image")
    skipped = []
    for folder in split_site(site, 2, tmp_path / "out", skew="scanner"):
        skipped += prepare(load_site(folder), tmp_path / "data" / folder.name).skipped
    assert [entry.name.endswith("clinic/000.png") for entry in skipped] == [True]


def test_a_real_site_can_be_cut(real_data, tmp_path):
    folders = split_site(real_data / "isic", 4, tmp_path / "out", skew="quantity")
    counts = [len(load_site(folder).rows) for folder in folders]
    assert sum(counts) == 130
    assert counts == sorted(counts, reverse=True)
    row = load_site(folders[3])
    assert row.path(row.rows[0].image).is_file()
