"""Readers on made files: every pixel value is known."""

import contextlib
import gzip
import os
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_files import dicom, disc, grey, nifti, png, slice_file
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.pixels import get_decoder
from pydicom.uid import JPEGLosslessSV1, RLELossless

from omnifed.data.readers.base import MAX_PIXELS
from omnifed.data.readers.dicom import frames
from omnifed.data.readers.nifti import Volume
from omnifed.data.readers.registry import mask_values, read_image, read_mask
from omnifed.errors import OmniFedError


def fails(code: str, path: Path, **options: object) -> str:
    with pytest.raises(OmniFedError) as caught:
        read_image(path, **options)  # type: ignore[arg-type]
    assert caught.value.code == code, str(caught.value)
    return str(caught.value)


def test_rasters_of_every_depth(tmp_path: Path) -> None:
    deep = (np.arange(12, dtype=np.uint16) * 5000).reshape(3, 4)
    for name, pixels in (
        ("a.png", grey(1)),
        ("b.png", deep),
        ("c.tiff", deep),
        ("d.tif", deep.astype(np.float32) / 7),
        ("e.png", np.stack([grey(1), grey(2), grey(3)], -1)),
    ):
        png(tmp_path / name, pixels)
        np.testing.assert_array_equal(read_image(tmp_path / name).slices[0].pixels, pixels)
    png(tmp_path / "f.jpg", np.full((8, 8), 100, np.uint8))
    assert np.abs(read_image(tmp_path / "f.jpg").slices[0].pixels.astype(int) - 100).max() <= 2


def test_a_tiff_of_pages_is_a_volume_and_its_mask_too(tmp_path: Path) -> None:
    pages = [Image.fromarray(grey(k)) for k in range(3)]
    pages[0].save(tmp_path / "v.tif", save_all=True, append_images=pages[1:])
    masks = [Image.fromarray(disc(value=k)) for k in (0, 1, 1)]
    masks[0].save(tmp_path / "m.tif", save_all=True, append_images=masks[1:])
    picture = read_image(tmp_path / "v.tif")
    assert [s.pixels[0, 0] for s in picture.slices] == [grey(k)[0, 0] for k in range(3)]
    assert [m.max() for m in read_mask(tmp_path / "m.tif", picture)] == [0, 1, 1]
    png(tmp_path / "one.png", disc())
    with pytest.raises(OmniFedError, match="OF219"):
        read_mask(tmp_path / "one.png", picture)


def test_palette_masks_keep_their_index_and_one_bit_masks_are_0_and_255(tmp_path: Path) -> None:
    image = Image.fromarray(disc(value=2), "P")
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    image.save(tmp_path / "p.png")
    Image.fromarray(disc(value=255)).convert("1").save(tmp_path / "b.png")
    png(tmp_path / "rgb.png", np.repeat(disc(value=255)[..., None], 3, axis=2))
    assert set(mask_values(tmp_path / "p.png")) == {0, 2}
    assert set(mask_values(tmp_path / "b.png")) == {0, 255}
    assert set(mask_values(tmp_path / "rgb.png")) == {0, 255}
    png(tmp_path / "colour.png", np.stack([disc(), disc() * 0, disc() * 0], -1))
    with pytest.raises(OmniFedError, match="OF221"):
        mask_values(tmp_path / "colour.png")


def test_broken_files_have_numbers(tmp_path: Path) -> None:
    png(tmp_path / "a.png", grey(side=64))
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "empty.dcm").write_bytes(b"")
    nifti(tmp_path / "n.nii.gz", np.zeros((4, 4, 4), np.int16))
    (tmp_path / "cut.nii.gz").write_bytes((tmp_path / "n.nii.gz").read_bytes()[:-30])
    nifti(tmp_path / "4d.nii", np.zeros((2, 2, 2, 3), np.int16))
    fails("OF210", tmp_path / "absent.png")
    fails("OF212", tmp_path / "cut.png")
    fails("OF211", tmp_path / "text.png")
    fails("OF212", tmp_path / "empty.dcm")
    fails("OF212", tmp_path / "cut.nii.gz")
    fails("OF211", tmp_path / "4d.nii")
    with pytest.raises(OmniFedError, match="OF218"):
        read_mask(tmp_path / "absent.png", read_image(tmp_path / "a.png"))


def test_absurd_sizes_are_refused_before_decoding(tmp_path: Path) -> None:
    side = int(MAX_PIXELS**0.5) + 1
    Image.new("1", (side, side)).save(tmp_path / "big.png")
    fails("OF213", tmp_path / "big.png")
    Image.new("1", (2 * side, side)).save(tmp_path / "bomb.png")
    fails("OF213", tmp_path / "bomb.png")
    dicom(tmp_path / "big.dcm", np.zeros((2, 2)), Rows=60000, Columns=60000)
    fails("OF213", tmp_path / "big.dcm")
    dicom(tmp_path / "long.dcm", np.zeros((2, 2)), NumberOfFrames=2_000_000_000)
    fails("OF213", tmp_path / "long.dcm")
    header = np.zeros((2, 2, 2), np.uint8)
    nifti(tmp_path / "n.nii", header)
    raw = bytearray((tmp_path / "n.nii").read_bytes())
    raw[42:48] = np.array([30000, 30000, 30000], "<i2").tobytes()
    (tmp_path / "huge.nii.gz").write_bytes(gzip.compress(bytes(raw)))
    fails("OF213", tmp_path / "huge.nii.gz")


def test_dicom_series_is_ordered_by_position_in_units(tmp_path: Path) -> None:
    for number, z in ((1, 30.0), (2, 10.0), (3, 20.0)):
        dicom(tmp_path / f"{number}.dcm", np.full((4, 6), number), z, number)
    (tmp_path / "notes.txt").write_text("beside the series")
    picture = read_image(tmp_path)
    assert [s.pixels[0, 0] for s in picture.slices] == [2 * n - 1000 for n in (2, 3, 1)]
    assert [s.number for s in picture.slices] == [0, 1, 2]
    first = picture.slices[0]
    assert first.spacing == (0.5, 0.25)
    assert first.plane is not None
    # Row 2, column 4 of the slice at z = 10: LPS (10 + 4 * 0.25, 20 + 2 * 0.5, 10), as RAS.
    np.testing.assert_allclose(first.plane @ [2, 4, 1], [-11, -21, 10])


def test_without_position_the_instance_number_orders(tmp_path: Path) -> None:
    for number in (2, 10, 1):
        dicom(tmp_path / f"{number}.dcm", np.full((2, 2), number), 0, number, ImagePositionPatient=None)
    assert [s.pixels[0, 0] for s in read_image(tmp_path).slices] == [-998, -996, -980]


def test_a_folder_with_two_series_or_none(tmp_path: Path) -> None:
    dicom(tmp_path / "two" / "a.dcm", np.zeros((2, 2)))
    dicom(tmp_path / "two" / "b.dcm", np.zeros((2, 2)), 1, 2, SeriesInstanceUID="1.2.3")
    fails("OF215", tmp_path / "two")
    (tmp_path / "none").mkdir()
    fails("OF216", tmp_path / "none")


def test_a_broken_slice_costs_only_itself(tmp_path: Path) -> None:
    for number in range(3):
        dicom(tmp_path / f"{number}.dcm", np.full((16, 16), number), number, number)
    cut = (tmp_path / "1.dcm").read_bytes()[:-100]
    (tmp_path / "1.dcm").write_bytes(cut)
    picture = read_image(tmp_path)
    assert len(picture.slices) == 2
    assert [(name, error.code) for name, error in picture.failed] == [("1.dcm", "OF212")]
    fails("OF212", tmp_path / "1.dcm")


def test_monochrome1_and_display_window(tmp_path: Path) -> None:
    pixels = np.array([[0, 100], [200, 1000]])
    dicom(tmp_path / "m1.dcm", pixels, PhotometricInterpretation="MONOCHROME1", RescaleSlope=1, RescaleIntercept=0)
    assert read_image(tmp_path / "m1.dcm").slices[0].pixels.tolist() == [[1000, 900], [800, 0]]
    window = {"WindowCenter": 100, "WindowWidth": 100, "RescaleSlope": 1, "RescaleIntercept": 0}
    dicom(tmp_path / "w.dcm", pixels, **window)
    assert read_image(tmp_path / "w.dcm").slices[0].pixels.tolist() == pixels.tolist()
    shown = read_image(tmp_path / "w.dcm", voi=True).slices[0].pixels
    assert shown[1, 0] == shown[1, 1] > shown[0, 1] > shown[0, 0]
    dicom(tmp_path / "w0.dcm", pixels, **{**window, "WindowWidth": 0})
    assert read_image(tmp_path / "w0.dcm", voi=True).slices[0].pixels.tolist() == pixels.tolist()


def test_frames_of_one_file_have_their_own_position_and_rescale(tmp_path: Path) -> None:
    data = slice_file(np.zeros((2, 2)))
    for tag in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope", "RescaleIntercept"):
        del data[tag]
    data.NumberOfFrames = 3
    data.PixelData = np.repeat(np.array([1, 2, 3], "<i2"), 4).tobytes()

    def group(**values: object) -> pydicom.Dataset:
        item = pydicom.Dataset()
        for name, value in values.items():
            setattr(item, name, value)
        return item

    shared = group(
        PixelMeasuresSequence=[group(PixelSpacing=[2, 3])],
        PlaneOrientationSequence=[group(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])],
    )
    data.SharedFunctionalGroupsSequence = [shared]
    data.PerFrameFunctionalGroupsSequence = [
        group(
            PlanePositionSequence=[group(ImagePositionPatient=[0, 0, z])],
            PixelValueTransformationSequence=[group(RescaleSlope=slope, RescaleIntercept=0.5)],
        )
        for z, slope in ((9, 1), (3, 10), (6, 100))
    ]
    data.save_as(tmp_path / "enhanced.dcm")
    slices = read_image(tmp_path / "enhanced.dcm").slices
    assert [s.pixels[0, 0] for s in slices] == [20.5, 300.5, 1.5]
    assert [(s.frame, s.number) for s in slices] == [(2, 0), (3, 1), (1, 2)]
    assert slices[0].spacing == (2, 3)


def test_deflated_is_refused_and_rle_is_read(tmp_path: Path) -> None:
    data = slice_file(np.full((8, 8), 3))
    data.compress(RLELossless)
    data.save_as(tmp_path / "rle.dcm")
    assert (read_image(tmp_path / "rle.dcm").slices[0].pixels == -994).all()
    dicom(tmp_path / "plain.dcm", np.zeros((8, 8)))
    deflated = pydicom.dcmread(tmp_path / "plain.dcm")
    deflated.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1.99"
    deflated.save_as(tmp_path / "deflated.dcm")
    fails("OF214", tmp_path / "deflated.dcm")


def test_lossless_jpeg_names_the_missing_decoder(tmp_path: Path) -> None:
    if get_decoder(JPEGLosslessSV1).is_available:
        pytest.skip("a decoder for lossless JPEG is installed here")
    dicom(tmp_path / "a.dcm", np.zeros((8, 8)))
    data = pydicom.dcmread(tmp_path / "a.dcm")
    data.PixelData = encapsulate([b"\xff\xd8\xff\xd9"])
    data["PixelData"].is_undefined_length = True
    data.file_meta.TransferSyntaxUID = JPEGLosslessSV1
    data.save_as(tmp_path / "b.dcm")
    assert "JPEG Lossless" in fails("OF216", tmp_path / "b.dcm")


def test_nifti_is_turned_to_the_view_of_a_radiologist(tmp_path: Path) -> None:
    data = np.zeros((3, 4, 2), np.int16)  # RAS: x to the right, y to the front, z up
    data[2, 3, 1] = 7  # right, front, top
    nifti(tmp_path / "v.nii.gz", data, np.diag([2.0, 3.0, 5.0, 1.0]))
    axial = read_image(tmp_path / "v.nii.gz", slice_axis=2)
    assert len(axial.slices) == 2
    assert axial.slices[0].pixels.shape == (4, 3)
    assert axial.slices[0].spacing == (3, 2)
    assert axial.slices[0].pixels[0, 0] == 7  # the right is on the left, the front on top, the top slice first
    assert axial.slices[0].plane is not None
    np.testing.assert_allclose(axial.slices[0].plane @ [0, 0, 1], [4, 9, 5])
    assert read_image(tmp_path / "v.nii.gz", slice_axis=1).slices[0].pixels.shape == (2, 3)
    assert read_image(tmp_path / "v.nii.gz", slice_axis=0).slices[0].pixels.shape == (2, 4)


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.permutations([0, 1, 2]), st.tuples(*[st.booleans()] * 3), st.sampled_from([0, 1, 2]))
def test_a_mask_stored_in_any_order_lands_under_its_pixels(
    tmp_path: Path, order: list[int], flips: tuple[bool, ...], axis: int
) -> None:
    import nibabel as nib

    image = np.arange(60).reshape(3, 4, 5).astype(np.int16)
    affine = np.array([[2.0, 0, 0, -7], [0, 3, 0, 5], [0, 0, 4, 1], [0, 0, 0, 1]])
    nifti(tmp_path / "i.nii", image, affine)
    turn = np.array([[axis_, -1 if flip else 1] for axis_, flip in zip(order, flips, strict=True)], float)
    nib.save(nib.Nifti1Image(image, affine).as_reoriented(turn), tmp_path / "m.nii")
    picture = read_image(tmp_path / "i.nii", slice_axis=axis)
    for piece, mask in zip(picture.slices, read_mask(tmp_path / "m.nii", picture), strict=True):
        np.testing.assert_array_equal(piece.pixels, mask)


def test_masks_off_the_grid_are_refused(tmp_path: Path) -> None:
    nifti(tmp_path / "i.nii", np.zeros((4, 4, 4), np.int16))
    picture = read_image(tmp_path / "i.nii")
    for shape, affine, code in (
        ((4, 4, 3), np.eye(4), "OF222"),
        ((4, 4, 4), np.diag([1.2, 1, 1, 1]), "OF222"),
        ((4, 4, 4), np.array([[1, 0, 0, 0.5], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]), "OF222"),
    ):
        nifti(tmp_path / "m.nii", np.zeros(shape, np.uint8), affine)
        with pytest.raises(OmniFedError, match=code):
            read_mask(tmp_path / "m.nii", picture)
    nifti(tmp_path / "m.nii", np.full((4, 4, 4), 0.3, np.float32))
    with pytest.raises(OmniFedError, match="OF221"):
        read_mask(tmp_path / "m.nii", picture)
    png(tmp_path / "i.png", grey())
    nifti(tmp_path / "m.nii", np.zeros((32, 32, 1), np.uint8))
    with pytest.raises(OmniFedError, match="OF222"):
        read_mask(tmp_path / "m.nii", read_image(tmp_path / "i.png"))


def test_a_nifti_mask_fits_a_dicom_series(tmp_path: Path) -> None:
    for number in range(3):
        dicom(tmp_path / "s" / f"{number}.dcm", np.zeros((4, 6)), 5.0 * number, number)
    mask = np.zeros((6, 4, 3), np.uint8)  # axes L, P, S as the converters write them: column, row, slice
    mask[4, 2, 1] = 9
    nifti(tmp_path / "m.nii.gz", mask, np.array([[-0.25, 0, 0, -10], [0, -0.5, 0, -20], [0, 0, 5, 0], [0, 0, 0, 1.0]]))
    masks = read_mask(tmp_path / "m.nii.gz", read_image(tmp_path / "s"))
    assert [np.argwhere(m == 9).tolist() for m in masks] == [[], [[2, 4]], []]


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data(), st.sampled_from(["a.png", "a.dcm", "a.nii", "a.tif"]))
def test_damaged_bytes_end_in_a_numbered_error_or_an_image(tmp_path: Path, data: st.DataObject, name: str) -> None:
    path = tmp_path / name
    if name == "a.dcm":
        dicom(path, np.zeros((4, 4)))
    elif name == "a.nii":
        nifti(path, np.zeros((4, 4, 2), np.int16))
    else:
        png(path, grey(side=8))
    raw = bytearray(path.read_bytes())
    for at in data.draw(st.lists(st.integers(0, len(raw) - 1), min_size=1, max_size=8)):
        raw[at] = data.draw(st.integers(0, 255))
    damaged = tmp_path / f"damaged{path.suffix}"
    damaged.write_bytes(bytes(raw[: data.draw(st.integers(len(raw) // 2, len(raw)))]))
    with contextlib.suppress(OmniFedError):  # and nothing else
        assert read_image(damaged).slices


def test_a_volume_that_is_read_slice_by_slice_has_nibabels_numbers(tmp_path: Path) -> None:
    import nibabel as nib

    stored = np.arange(60).reshape(3, 4, 5)
    for dtype, slope, inter in ((np.int16, 0.0123, -17.3), (">i2", 1, 0), (np.float64, 2.5, 0.1), (np.uint8, 3, 0)):
        for name in ("v.nii", "v.nii.gz"):
            image = nib.Nifti1Image(stored.astype(dtype), np.diag([-1.0, -1.0, -1.0, 1.0]))  # stored as it is shown
            image.header.set_slope_inter(slope, inter)
            nib.save(image, tmp_path / name)
            wanted = nib.load(tmp_path / name).get_fdata(dtype=np.float32)
            volume = Volume(tmp_path / name)
            got = np.stack([volume.pixels(k) for k in range(volume.shape[0])])
            volume.forget()
            np.testing.assert_array_equal(got, wanted.transpose(2, 1, 0))
            np.testing.assert_array_equal(volume.pixels(2), wanted[..., 2].T)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["v.nii", "v.nii.gz"]


def test_chosen_frames_are_decoded_in_the_order_asked_for(tmp_path: Path) -> None:
    data = slice_file(np.zeros((2, 2)))
    data.NumberOfFrames = 3
    data.PixelData = np.repeat(np.array([500, 501, 502], "<i2"), 4).tobytes()
    data.save_as(tmp_path / "m.dcm")
    assert [(s.frame, s.pixels[0, 0]) for s in frames(tmp_path / "m.dcm", [2, 0])] == [(3, 4), (1, 0)]


def test_a_file_in_the_place_of_another_is_not_taken_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for value, name in enumerate("ab"):  # of one size, and said to be of one time
        (tmp_path / name).mkdir()
        dicom(tmp_path / name / "x.dcm", np.full((8, 8), value))
        os.utime(tmp_path / name / "x.dcm", ns=(0, 0))
    found = []
    for name in "ab":
        monkeypatch.chdir(tmp_path / name)
        found.append(int(read_image(Path("x.dcm")).slices[0].pixels[0, 0]))
    dicom(tmp_path / "b" / "x.dcm", np.full((8, 8), 2))
    os.utime(tmp_path / "b" / "x.dcm", ns=(0, 0))
    assert [*found, int(read_image(Path("x.dcm")).slices[0].pixels[0, 0])] == [-1000, -998, -996]


def test_relative_paths_are_those_of_the_working_folder_of_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("a", 3), ("b", 7)):
        png(tmp_path / name / "image.png", np.full((4, 5), value, np.uint8))
        monkeypatch.chdir(tmp_path / name)
        assert read_image(Path("image.png")).slices[0].pixels.max() == value
