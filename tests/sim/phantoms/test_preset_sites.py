import hashlib

import numpy as np
import pydicom
import pytest
from pydicom.uid import UID

from omnifed.data.prepare import prepare
from omnifed.data.readers.registry import read_image, read_mask
from omnifed.data.site_folder import load_site
from omnifed.errors import OmniFedError
from omnifed_sim.phantoms import PHANTOMS, Look, write_preset
from omnifed_sim.phantoms.formats import write_case


def hashes(folder):
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope="module")
def presets(tmp_path_factory):
    out = tmp_path_factory.mktemp("presets")
    return {name: write_preset(name, out / name, image_size=32, scale=0.34) for name in ("modalities", "hospitals")}


def test_the_same_seed_gives_the_same_bytes(presets, tmp_path):
    for name, folders in presets.items():
        again = write_preset(name, tmp_path / name, image_size=32, scale=0.34)
        assert [f.name for f in again] == [f.name for f in folders]
        assert hashes(tmp_path / name) == hashes(folders[0].parent)


def test_every_site_can_be_read_whole(presets, tmp_path):
    for folder in (*presets["modalities"], *presets["hospitals"]):
        data = prepare(load_site(folder), tmp_path / folder.name)
        assert data.config.name == folder.name
        assert data.skipped == ()
        assert data.train.has_mask.any()
        assert not data.train.has_mask.all()
        assert data.val.has_mask.all()
        assert data.test.has_mask.all()
        patients = [set(part.patients) for part in (data.train, data.val, data.test)]
        assert not (patients[0] & patients[1])
        assert not (patients[0] & patients[2])
        assert not (patients[1] & patients[2])
        assert np.isfinite(np.asarray(data.train.images)).all()


def test_hospitals_share_the_labels_and_differ_in_size_and_in_the_rare_label(presets, tmp_path):
    data = [prepare(load_site(folder), tmp_path / folder.name) for folder in presets["hospitals"]]
    assert [d.config.name for d in data] == ["north", "east", "south", "west"]
    assert len({tuple(d.config.labels.items()) for d in data}) == 1
    labelled = [int(d.train.has_mask.sum()) for d in data]
    assert labelled == [14, 7, 3, 2]  # 40, 20, 10, 4 by 0.34, two at least
    lesions = [bool((np.asarray(d.train.masks) == 4).any()) for d in data]
    assert lesions == [True, True, True, False]
    assert all((np.asarray(d.test.masks) == 4).any() for d in data)


@pytest.mark.parametrize("name", ["dermoscopy", "abdominal_ct", "abdominal_mri", "retinal_oct", "brain_mri"])
def test_files_hold_what_was_drawn(name, tmp_path):
    phantom = PHANTOMS[name]
    drawn = phantom.patient(11, 3, 48, Look(rare=1))
    for axis in (0, 1):
        assert not np.array_equal(drawn[0][1], np.flip(drawn[0][1], axis))  # a turned mask would be noticed
    entries = write_case(phantom, "p1", drawn, tmp_path)
    images, masks = [], []
    for image, mask in entries:
        picture = read_image(tmp_path / image)
        images += [s.pixels for s in picture.slices]
        masks += read_mask(tmp_path / mask, picture)
    assert len(images) == len(masks) == 3
    if phantom.native == "nifti":  # volumes are read from head to foot
        images, masks = images[::-1], masks[::-1]
    for (image, mask), read, label in zip(drawn, images, masks, strict=True):
        assert np.array_equal(label, mask)
        kept = np.clip(image, -1024, 3071) if name == "abdominal_ct" else image
        tolerance = 40 if phantom.native == "jpeg" else 0.51
        assert np.abs(read - kept).max() <= tolerance


def test_dicom_series_are_valid(tmp_path):
    phantom = PHANTOMS["abdominal_ct"]
    write_case(phantom, "p7", phantom.patient(2, 3, 32, Look()), tmp_path)
    files = [pydicom.dcmread(path) for path in sorted((tmp_path / "images" / "p7").iterdir())]
    assert [f.ImagePositionPatient[2] for f in files] == [0, 5, 10]
    assert len({f.SeriesInstanceUID for f in files}) == 1
    assert len({f.SOPInstanceUID for f in files}) == 3
    assert all(UID(f.SOPInstanceUID).is_valid and len(f.SOPInstanceUID) <= 64 for f in files)
    assert (files[0].RescaleIntercept, files[0].RescaleSlope, files[0].Modality) == (-1024, 1, "CT")
    assert files[0].pixel_array.shape == (32, 32)


def test_a_complete_folder_is_kept_and_another_seed_replaces_it(tmp_path):
    calls = []
    folders = write_preset("hospitals", tmp_path, image_size=32, scale=0.05, progress=lambda *a: calls.append(a))
    assert calls[0] == (0, 4, "north")
    assert calls[-1][:2] == (4, 4)
    first = folders[0] / "index.csv"
    before, content = first.stat().st_mtime_ns, hashes(tmp_path)
    write_preset("hospitals", tmp_path, image_size=32, scale=0.05)
    assert first.stat().st_mtime_ns == before
    write_preset("hospitals", tmp_path, image_size=32, scale=0.05, seed=1)
    assert hashes(tmp_path) != content
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_a_folder_of_somebody_else_is_never_touched(tmp_path):
    mine = tmp_path / "north" / "mine.txt"
    mine.parent.mkdir()
    mine.write_text("data")
    with pytest.raises(OmniFedError, match="OF250"):
        write_preset("hospitals", tmp_path, image_size=32, scale=0.05)
    assert mine.read_text() == "data"
