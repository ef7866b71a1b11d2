"""Whole predictions with a model whose masks can be computed by hand."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import BinaryIO

import nibabel as nib
import numpy as np
import pydicom
import pytest
from conftest import Make
from made_series import enhanced, image, position
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DigitalXRayImageStorageForPresentation,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)

from omnifed.data.normalise import normalise
from omnifed.data.overlay import PALETTE
from omnifed.data.readers.registry import read_image, read_mask
from omnifed.data.site import Normalisation
from omnifed.errors import OmniFedError
from omnifed.export.session import Session, load
from omnifed.predict.network import segment
from omnifed.predict.result import Prediction, Report
from omnifed.predict.run import predict_all

FLAT = [1, 0, 0, 0, 1, 0]
HU = np.array([-500, 20, 80])
"""Become label 0, 1 and 2."""


def volume(n: int, rows: int = 9, columns: int = 10, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).choice(HU, (n, rows, columns)).astype(np.int16)


def by_hand(values: np.ndarray) -> np.ndarray:
    return np.digitize(values, (0, 50)).astype(np.uint8)


def write_series(folder: Path, slices: np.ndarray, places: list[float] | None = None, **tags: object) -> Path:
    """One file a slice, named against the order of position."""
    folder.mkdir(parents=True, exist_ok=True)
    for k, pixels in enumerate(slices):
        values = {
            "PixelSpacing": [0.5, 0.25],
            "SliceThickness": 2.5,
            "ImagePositionPatient": position(k if places is None else places[k], FLAT),
            "ImageOrientationPatient": FLAT,
            "PixelData": pixels.astype("<i2").tobytes(),
            **tags,
        }
        pydicom.dcmwrite(folder / f"{900 - k}.dcm", image(pixels.shape, str(k), **values), enforce_file_format=False)
    return folder


def only(report: Report) -> Prediction:
    assert report.failed == (), report.failed
    (done,) = report.predictions
    return done


def failure(report: Report) -> str:
    assert report.predictions == ()
    (failed,) = report.failed
    assert failed.code in failed.reason
    return failed.code


@pytest.fixture
def session(make_model: Make) -> Session:
    """At the size of ``volume``: nothing is resized."""
    return load(make_model(size=(9, 10)), threads=1)


def test_an_image_becomes_an_index_png_and_an_overlay(session: Session, tmp_path: Path) -> None:
    grey = np.tile(np.array([0, 20, 80, 255, 0], np.uint8), (9, 2))
    Image.fromarray(grey).save(tmp_path / "a.png")
    done = only(predict_all(session, tmp_path / "a.png", tmp_path / "out"))
    with Image.open(tmp_path / "out" / "a.png") as png:
        assert png.mode == "P"
        np.testing.assert_array_equal(np.asarray(png), by_hand(grey - 0.5))
        assert png.getpalette()[:9] == PALETTE[:3].ravel().tolist()
    with Image.open(tmp_path / "out" / "a_overlay.png") as overlay:
        assert overlay.size == (10, 9)
    assert (done.kind, done.slices, done.outputs) == ("image", 1, (str(tmp_path / "out" / "a.png"),))
    assert {name: (size.pixels, size.ml) for name, size in done.labels.items()} == {
        "liver": (18, None),
        "tumour": (36, None),
    }
    assert (tmp_path / "out" / "a.png").stat().st_mode & 0o777 == 0o600


def test_a_series_becomes_a_seg_on_its_own_slices(session: Session, tmp_path: Path) -> None:
    hu = volume(6)
    series = write_series(tmp_path / "ct", hu)
    done = only(predict_all(session, series, tmp_path / "out"))
    back = read_mask(tmp_path / "out" / "ct_seg.dcm", read_image(series))
    np.testing.assert_array_equal(np.stack(back), by_hand(hu))
    ml = 0.5 * 0.25 * 2.5 / 1000
    assert done.labels["tumour"].pixels == (hu == 80).sum()
    assert done.labels["tumour"].ml == pytest.approx((hu == 80).sum() * ml, abs=1e-6)
    assert (tmp_path / "out" / "ct_overlay.png").is_file()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["ct_overlay.png", "ct_seg.dcm"]


def test_a_multi_frame_file_is_read_in_order_of_position(session: Session, tmp_path: Path) -> None:
    hu = volume(4)
    path = enhanced(tmp_path / "multi.dcm", [2, 0, 3, 1])
    data = pydicom.dcmread(path)
    data.PixelData = hu.astype("<i2").tobytes()
    data.save_as(path)
    assert only(predict_all(session, path, tmp_path / "out")).slices == 4
    back = read_mask(tmp_path / "out" / "multi_seg.dcm", read_image(path))
    np.testing.assert_array_equal(np.stack(back), by_hand(hu)[[1, 3, 0, 2]])


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_nifti_keeps_the_voxels_of_its_source(make_model: Make, tmp_path: Path, axis: int, suffix: str) -> None:
    hu = volume(5, 9, 9)[..., :7]  # (5, 9, 7)
    affine = np.array([[0, -2.0, 0, 7], [1.5, 0, 0, -3], [0, 0, -3, 11], [0, 0, 0, 1]])
    source = nib.Nifti1Image(hu, affine)
    source.header.set_xyzt_units("mm", "sec")
    source.header["descrip"] = b"Made^Up"
    nib.save(source, tmp_path / f"v{suffix}")
    # Axes of the file: P, L, I. A slice is resized to its own size, so nothing is resized.
    size = {0: (7, 5), 1: (7, 9), 2: (5, 9)}[axis]
    session = load(make_model(size=size, slice_axis=axis), threads=1)
    done = only(predict_all(session, tmp_path / f"v{suffix}", tmp_path / "out"))
    result = nib.load(tmp_path / "out" / "v_seg.nii.gz")
    np.testing.assert_array_equal(np.asanyarray(result.dataobj), by_hand(hu))
    np.testing.assert_array_equal(result.affine, affine)
    assert result.get_data_dtype() == np.uint8
    assert result.header.get_xyzt_units() == ("mm", "sec")
    assert b"Made" not in result.header["descrip"].tobytes()
    assert done.labels["liver"].ml == pytest.approx((hu == 20).sum() * 9 / 1000)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["v_overlay.png", "v_seg.nii.gz"]


def test_units_of_a_nifti(session: Session, tmp_path: Path) -> None:
    for unit, ml in (("micron", 90 * 2 * 1e-12), ("unknown", 90 * 2 / 1000)):
        source = nib.Nifti1Image(np.full((10, 9, 2), 20, np.int16), np.diag([-1.0, -1, 1, 1]))
        source.header.set_xyzt_units(unit)
        nib.save(source, tmp_path / f"{unit}.nii")
        done = only(predict_all(session, tmp_path / f"{unit}.nii", tmp_path / "out"))
        assert done.labels["liver"].ml == pytest.approx(ml)
    nib.save(nib.Nifti1Image(np.full((10, 9), 20, np.int16), np.eye(4)), tmp_path / "flat.nii")
    assert only(predict_all(session, tmp_path / "flat.nii", tmp_path / "out")).labels["liver"].ml is None
    assert nib.load(tmp_path / "out" / "flat_seg.nii.gz").shape == (10, 9)


@pytest.mark.parametrize("kind", ["percentile", "minmax", "window", "rgb"])
@pytest.mark.parametrize("view", ["resize", "window"])
def test_streaming_gives_the_masks_of_the_volume_in_memory(
    make_model: Make, tmp_path: Path, kind: str, view: str
) -> None:
    rng = np.random.default_rng(3)
    values = rng.normal(size=(7, 21, 34)).cumsum(2).astype(np.float32) * 40
    nib.save(nib.Nifti1Image(values.T, np.diag([-1.0, -1, -1, 1])), tmp_path / "v.nii.gz")  # stored as it is shown
    write_series(tmp_path / "ct", values.astype(np.int16), WindowCenter=10, WindowWidth=300)
    session = load(make_model(size=(16, 16), normalisation=Normalisation(kind=kind)), threads=1)
    assert predict_all(session, tmp_path / "v.nii.gz", tmp_path / "out", view=view).failed == ()
    assert predict_all(session, tmp_path / "ct", tmp_path / "out", view=view).failed == ()
    stored = np.asanyarray(nib.load(tmp_path / "out" / "v_seg.nii.gz").dataobj).T
    series = read_image(tmp_path / "ct", voi=kind in ("minmax", "rgb"))
    for picture, masks in (
        (read_image(tmp_path / "v.nii.gz"), stored),
        (series, read_mask(tmp_path / "out" / "ct_seg.dcm", series)),
    ):
        planes = normalise([piece.pixels for piece in picture.slices], session.card.normalisation, 1)
        wanted = np.stack([segment(session, plane, view) for plane in planes])
        assert len(np.unique(wanted)) == 3
        np.testing.assert_array_equal(np.stack(list(masks)), wanted)


def test_colour_for_a_grey_model_and_grey_for_a_colour_model(make_model: Make, tmp_path: Path) -> None:
    red = np.zeros((9, 10, 3), np.uint8)
    red[:, 5:, 0] = 100  # luminance 29.9: label 1
    Image.fromarray(red).save(tmp_path / "rgb.png")
    Image.fromarray(red).convert("RGBA").save(tmp_path / "rgba.png")
    Image.fromarray(red).convert("CMYK").save(tmp_path / "cmyk.tif")
    Image.fromarray(np.repeat(red[..., :1], 2, 2), "LA").save(tmp_path / "la.png")
    Image.fromarray(red[..., 0].astype(np.uint16) * 200).save(tmp_path / "deep.png")
    grey = load(make_model(size=(9, 10)), threads=1)
    wanted = {"rgb": 1, "rgba": 1, "cmyk": 1, "la": 2, "deep": 2}
    for file in ("rgb.png", "rgba.png", "cmyk.tif", "la.png", "deep.png"):
        only(predict_all(grey, tmp_path / file, tmp_path / "out"))
        with Image.open(tmp_path / "out" / f"{Path(file).stem}.png") as png:
            assert np.unique(np.asarray(png)[:, 5:]).tolist() == [wanted[Path(file).stem]], file
    colour = load(make_model(size=(9, 10), channels=3), threads=1)
    only(predict_all(colour, tmp_path / "deep.png", tmp_path / "out3"))
    with Image.open(tmp_path / "out3" / "deep.png") as png:
        assert np.asarray(png)[0].tolist() == [0] * 5 + [2] * 5


def test_a_colour_dicom_is_read_as_in_training(session: Session, tmp_path: Path) -> None:
    red = np.zeros((9, 10, 3), np.uint8)
    red[:, 5:, 0] = 100
    tags = {
        "SamplesPerPixel": 3,
        "PhotometricInterpretation": "RGB",
        "PlanarConfiguration": 0,
        "PixelData": red.tobytes(),
    }
    depth = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "PixelRepresentation": 0}
    write_series(tmp_path / "c", np.zeros((1, 9, 10)), **tags, **depth)
    only(predict_all(session, tmp_path / "c", tmp_path / "out"))
    back = read_mask(tmp_path / "out" / "c_seg.dcm", read_image(tmp_path / "c"))
    assert back[0][4].tolist() == [0] * 5 + [1] * 5


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless, JPEGBaseline8Bit])
def test_compressed_series(make_model: Make, tmp_path: Path, syntax: str) -> None:
    session = load(make_model(size=(16, 16)), threads=1)
    grey = np.zeros((16, 16), np.uint8)
    grey[8:] = 200
    depth = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "PixelRepresentation": 0, "PixelData": grey.tobytes()}
    write_series(tmp_path / "ct", np.zeros((1, 16, 16)), **depth, RescaleSlope=1, RescaleIntercept=-100)
    file = tmp_path / "ct" / "900.dcm"
    data = pydicom.dcmread(file)
    if syntax in (RLELossless, JPEGLSLossless):
        data.compress(syntax, grey, generate_instance_uid=False)
    else:
        packed = io.BytesIO()
        Image.fromarray(grey).save(packed, "JPEG2000" if syntax == JPEG2000Lossless else "JPEG", quality=95)
        data.PixelData = encapsulate([packed.getvalue()])
        data["PixelData"].is_undefined_length = True
        data.file_meta.TransferSyntaxUID = syntax
    data.save_as(file)
    only(predict_all(session, tmp_path / "ct", tmp_path / "out"))
    back = read_mask(tmp_path / "out" / "ct_seg.dcm", read_image(tmp_path / "ct"))
    np.testing.assert_array_equal(back[0], (grey > 0) * 2)


def test_every_slice_as_a_picture(session: Session, tmp_path: Path) -> None:
    series = write_series(tmp_path / "ct", volume(3))
    done = only(predict_all(session, series, tmp_path / "out", overlay="slices"))
    assert done.overlays == (str(tmp_path / "out" / "ct_overlay"),)
    again = only(predict_all(session, series, tmp_path / "out", overlay="slices", overwrite=True))
    assert again.outputs == done.outputs
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["ct_overlay", "ct_seg.dcm"]
    assert sorted(p.name for p in (tmp_path / "out" / "ct_overlay").iterdir()) == ["0001.png", "0002.png", "0003.png"]


def test_a_folder_goes_on_after_what_is_no_image(session: Session, tmp_path: Path) -> None:
    source = tmp_path / "in"
    write_series(source / "ct", volume(2))
    write_series(source / "hole", volume(3), places=[0, 1, 3])
    write_series(source / "twice", volume(3), places=[0, 1, 1])
    write_series(source / "bent", volume(2))
    first = pydicom.dcmread(source / "bent" / "900.dcm")
    first.ImageOrientationPatient = [0, 1, 0, 0, 0, 1]
    first.save_as(source / "bent" / "900.dcm")
    write_series(source / "sizes", volume(1))
    write_series(source / "sizes" / "x", volume(2, 12, 12))
    shutil.move(source / "sizes" / "x" / "899.dcm", source / "sizes" / "899.dcm")
    write_series(source / "mixed", volume(1))
    write_series(source / "mixed" / "x", volume(2), SeriesInstanceUID="1.2.3")
    shutil.move(source / "mixed" / "x" / "899.dcm", source / "mixed" / "899.dcm")
    write_series(source / "cut", volume(3))
    whole = (source / "cut" / "899.dcm").read_bytes()
    (source / "cut" / "899.dcm").write_bytes(whole[:-30])
    write_series(source / "gone", volume(3))
    (source / "gone" / "898.dcm").write_bytes(b"")
    (source / "text.png").write_text("no image")
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 2, 2), np.int16), np.eye(4)), source / "4d.nii")
    nib.save(nib.Nifti1Image(np.full((10, 9, 2), np.nan, np.float32), np.eye(4)), source / "nan.nii.gz")
    nib.save(nib.Nifti1Image(np.zeros((10, 9, 2), np.int16), np.eye(4)), source / "short.nii.gz")
    packed = (source / "short.nii.gz").read_bytes()
    (source / "short.nii.gz").write_bytes(packed[:-20])
    pages = [Image.fromarray(np.zeros((9, 10), np.uint8)) for _ in range(2)]
    pages[0].save(source / "pages.tif", save_all=True, append_images=pages[1:])
    shares: list[float] = []
    report = predict_all(
        session, source, tmp_path / "out", progress=lambda done, total, name: shares.append(done / total)
    )
    assert sorted(Path(done.source).name for done in report.predictions) == ["ct", "x", "x"]
    assert {Path(failed.source).name: failed.code for failed in report.failed} == {
        "hole": "OF625",
        "twice": "OF626",
        "bent": "OF627",
        "sizes": "OF627",
        "mixed": "OF215",
        "cut": "OF212",
        "gone": "OF212",
        "text.png": "OF211",
        "4d.nii": "OF211",
        "nan.nii.gz": "OF217",
        "short.nii.gz": "OF212",
        "pages.tif": "OF628",
    }
    assert shares == sorted(shares)
    assert shares[-1] == 1
    left = sorted(p.name for p in (tmp_path / "out").rglob("*") if p.is_file())
    assert left == ["ct_overlay.png", "ct_seg.dcm", "x_overlay.png", "x_overlay.png", "x_seg.dcm", "x_seg.dcm"]


def test_a_series_without_positions_and_a_single_x_ray(session: Session, tmp_path: Path) -> None:
    nowhere = {"ImagePositionPatient": None, "ImageOrientationPatient": None, "FrameOfReferenceUID": None}
    nowhere |= {"SOPClassUID": DigitalXRayImageStorageForPresentation, "Modality": "DX"}
    assert (
        failure(predict_all(session, write_series(tmp_path / "two", volume(2), **nowhere), tmp_path / "out")) == "OF627"
    )
    one = write_series(tmp_path / "one", volume(1), **nowhere)
    assert only(predict_all(session, one, tmp_path / "out")).labels["liver"].ml is None
    np.testing.assert_array_equal(
        read_mask(tmp_path / "out" / "one_seg.dcm", read_image(one))[0], by_hand(volume(1))[0]
    )


def test_what_a_segmentation_could_not_refer_to_is_refused_before_the_work(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    series = write_series(tmp_path / "ct", volume(2), StudyInstanceUID=None)
    monkeypatch.setattr(session, "logits", lambda batch: pytest.fail("worked"))
    assert failure(predict_all(session, series, tmp_path / "out")) == "OF640"


def test_uneven_slices_have_no_volume(session: Session, tmp_path: Path) -> None:
    done = only(predict_all(session, write_series(tmp_path / "ct", volume(3), places=[0, 1, 2.3]), tmp_path / "out"))
    assert done.labels["liver"].ml is None
    assert "varies" in done.warnings[0]


def test_a_deflated_file_is_refused(session: Session, tmp_path: Path) -> None:
    series = write_series(tmp_path / "ct", volume(1))
    data = pydicom.dcmread(series / "900.dcm")
    data.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1.99"
    data.save_as(series / "900.dcm")
    assert failure(predict_all(session, series, tmp_path / "out")) == "OF214"


def test_no_place_to_write(session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(np.zeros((9, 10), np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OmniFedError, match="OF623"):
        predict_all(session, tmp_path / "a.png", tmp_path / "file" / "out")
    nib.save(nib.Nifti1Image(np.zeros((10, 9, 2), np.int16), np.eye(4)), tmp_path / "v.nii.gz")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 100, 0))
    with pytest.raises(OmniFedError, match="OF623"):
        predict_all(session, tmp_path / "v.nii.gz", tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_disk_that_fills_up_ends_the_run_and_keeps_what_is_finished(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from omnifed.predict import nifti

    source = tmp_path / "in"
    source.mkdir()
    Image.fromarray(np.zeros((9, 10), np.uint8)).save(source / "a.png")
    nib.save(nib.Nifti1Image(np.zeros((10, 9, 2), np.int16), np.eye(4)), source / "b.nii")

    def full(file: BinaryIO, head: bytes, labels: np.ndarray) -> None:
        file.write(head)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(nifti, "_write", full)
    with pytest.raises(OmniFedError, match="OF103"):
        predict_all(session, source, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "a_overlay.png"]
