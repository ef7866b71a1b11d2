"""DICOM SEG of masks: written, then read by our reader and by highdicom."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_series import FRAME, SERIES, STUDY, enhanced, image, item, series
from pydicom.uid import DigitalXRayImageStorageForPresentation, UltrasoundMultiFrameImageStorage

from omnifed.data.readers.base import Picture, Slice
from omnifed.data.readers.dicom import read
from omnifed.data.readers.dicom_file import plane_of
from omnifed.data.readers.dicom_seg import read_mask
from omnifed.errors import OmniFedError
from omnifed.predict.seg import SegModel, seg_bytes

MODEL = SegModel(version="0.1.0", sha256="ab" * 32)
LABELS = {0: "background", 1: "liver", 2: "left kidney", 3: "Größe\\unknown"}


def write_seg(path: Path, headers: list[pydicom.Dataset], masks: np.ndarray, **options: Any) -> None:
    path.write_bytes(seg_bytes(headers, masks, **options))


def masks_of(shape: tuple[int, ...], labels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, labels + 1, shape).astype(np.uint8)


def headers_of(source: Path, picture: Picture) -> list[pydicom.Dataset]:
    files = [source] if source.is_file() else sorted(source.glob("*.dcm"))
    heads = {head.SOPInstanceUID: head for head in (pydicom.dcmread(f, stop_before_pixels=True) for f in files)}
    return [heads[uid] for uid in dict.fromkeys(piece.uid for piece in picture.slices)]


def slice_of(picture: Picture, group: pydicom.Dataset) -> int:
    """Number of the slice that a frame of the segmentation refers to."""
    reference = group.DerivationImageSequence[0].SourceImageSequence[0]
    frame = int(reference.get("ReferencedFrameNumber", 1))
    return [(p.uid, p.frame) for p in picture.slices].index((reference.ReferencedSOPInstanceUID, frame))


def round_trip(
    source: Path, masks: np.ndarray, target: Path, labels: dict[int, str] = LABELS
) -> tuple[highdicom.seg.Segmentation, Picture]:
    """Writes, and checks mask and geometry with both readers."""
    picture = read(source)
    write_seg(target, headers_of(source, picture), masks, labels=labels, model=MODEL)
    np.testing.assert_array_equal(np.stack(read_mask(target, picture)), masks)
    seg = highdicom.seg.segread(target)
    again = np.zeros_like(masks)
    for k, group in enumerate(seg.PerFrameFunctionalGroupsSequence):
        shared = seg.SharedFunctionalGroupsSequence[0]
        segment = (group if "SegmentIdentificationSequence" in group else shared).SegmentIdentificationSequence[0]
        where = slice_of(picture, group)
        again[where][seg.get_stored_frame(k + 1) > 0] = segment.ReferencedSegmentNumber
        same_place(plane_of(seg, k), picture.slices[where])
    np.testing.assert_array_equal(again, masks)
    return seg, picture


def same_place(written: np.ndarray | None, piece: Slice) -> None:
    """Corners of a frame within 1e-6 mm of those of its slice."""
    if piece.plane is None:
        assert written is None
    else:
        assert written is not None
        height, width = piece.pixels.shape[:2]
        corners = np.array([[0, 0, 1], [0, width, 1], [height, 0, 1]], float).T
        assert np.abs((written - piece.plane) @ corners).max() <= 1e-6


def test_an_oblique_series_in_any_order(tmp_path: Path) -> None:
    source = series(tmp_path / "s", [3, 0, 2, 1])  # names and instance numbers do not follow the position
    masks = masks_of((4, 9, 10))
    seg, picture = round_trip(source, masks, tmp_path / "seg.dcm")
    assert seg.number_of_segments == 3
    assert seg.StudyInstanceUID == STUDY
    assert seg.FrameOfReferenceUID == FRAME
    assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == SERIES != seg.SeriesInstanceUID
    references = seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert [r.ReferencedSOPInstanceUID for r in references] == [piece.uid for piece in picture.slices]
    measures = seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert measures.SpacingBetweenSlices == pytest.approx(2.5, abs=1e-6)
    volume = seg.get_volume(combine_segments=True)
    assert volume.spatial_shape == (4, 9, 10)


def test_what_the_file_says_of_itself(tmp_path: Path) -> None:
    source = series(tmp_path / "s", [0, 1])
    seg, _ = round_trip(source, masks_of((2, 9, 10)), tmp_path / "seg.dcm")
    assert (seg.PatientID, str(seg.PatientName), seg.PatientSex) == ("P7", "Müller^Ünal", "F")
    assert (seg.PatientBirthDate, seg.StudyDate) == ("19700102", "20260102")
    assert (seg.StudyTime, seg.AccessionNumber, seg.StudyID) == ("1011", "A1", "S1")
    assert (seg.ContentDescription, seg.SegmentsOverlap) == ("research use only, not a medical device", "NO")
    assert seg.SeriesDescription == "OmniFed segmentation"
    liver, kidney, unknown = seg.SegmentSequence
    assert [s.SegmentLabel for s in seg.SegmentSequence] == ["liver", "left kidney", "Größe unknown"]
    assert liver.SegmentedPropertyTypeCodeSequence[0].CodeValue == "10200004"
    kind = kidney.SegmentedPropertyTypeCodeSequence[0]
    assert (kind.CodeValue, kind.SegmentedPropertyTypeModifierCodeSequence[0].CodeValue) == ("64033007", "7771000")
    assert unknown.SegmentedPropertyTypeCodeSequence[0].CodeValue == "130488"
    assert (liver.SegmentAlgorithmType, liver.SegmentAlgorithmName) == ("AUTOMATIC", "OmniFed")
    algorithm = liver.SegmentationAlgorithmIdentificationSequence[0]
    assert (algorithm.AlgorithmVersion, MODEL.sha256 in algorithm.AlgorithmParameters) == ("0.1.0", True)
    assert MODEL.sha256 in liver.SegmentDescription


def test_a_multi_frame_file_whose_frames_are_out_of_order(tmp_path: Path) -> None:
    source = enhanced(tmp_path / "e.dcm", [2, 0, 1, 5])
    masks = masks_of((4, 9, 10))
    masks[1, :, :] = 0
    round_trip(source, masks, tmp_path / "seg.dcm")


def test_one_slice(tmp_path: Path) -> None:
    round_trip(series(tmp_path / "s", [0]), masks_of((1, 9, 10)), tmp_path / "seg.dcm")
    round_trip(enhanced(tmp_path / "e.dcm", [4]), masks_of((1, 9, 10)), tmp_path / "seg2.dcm")


@pytest.mark.parametrize("kind", ["series", "enhanced"])
def test_nothing_found_is_a_valid_segmentation(tmp_path: Path, kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    places = [0, 1, 2]
    source = series(tmp_path / "s", places) if kind == "series" else enhanced(tmp_path / "e.dcm", places)
    seg, picture = round_trip(source, np.zeros((3, 9, 10), np.uint8), tmp_path / "seg.dcm")
    named = {r.ReferencedSOPInstanceUID for r in seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence}
    assert named == {piece.uid for piece in picture.slices}
    assert seg.number_of_segments == 3
    assert capfd.readouterr().err == ""


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_mask_comes_back(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("seg")
    labels = data.draw(st.integers(1, 15))
    places = data.draw(st.lists(st.integers(-40, 40), min_size=1, max_size=6, unique=True))
    side = data.draw(st.integers(3, 17))  # highdicom packs frames of less than 8 pixels wrongly
    masks = masks_of((len(places), side, side + 1), labels, data.draw(st.integers(0, 99)))
    for k in data.draw(st.sets(st.integers(0, len(places) - 1))):
        masks[k] = 0  # empty slices are left out of the file
    names = {k: f"class-{k}" for k in range(labels + 1)}
    source = series(folder / "s", [float(p) for p in places], side)
    round_trip(source, masks, folder / "seg.dcm", names)


def test_an_anonymised_series(tmp_path: Path) -> None:
    gone = dict.fromkeys(("PatientID", "PatientName", "PatientSex", "PatientBirthDate", "StudyDate", "StudyTime",
                          "AccessionNumber", "StudyID", "FrameOfReferenceUID", "SliceThickness"))  # fmt: skip
    source = series(tmp_path / "s", [0, 1], **gone)
    seg, picture = round_trip(source, masks_of((2, 9, 10)), tmp_path / "seg.dcm")
    for keyword in gone:
        if keyword not in ("FrameOfReferenceUID", "SliceThickness"):
            assert keyword in seg, keyword  # type 2: present, empty
            assert not seg[keyword].value
    other = tmp_path / "again.dcm"
    write_seg(other, headers_of(source, picture), masks_of((2, 9, 10)), labels=LABELS, model=MODEL)
    assert seg.FrameOfReferenceUID == pydicom.dcmread(other).FrameOfReferenceUID != FRAME


def test_values_that_are_not_valid_are_kept(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    source = series(tmp_path / "s", [0, 1], PatientName="NoCaret", SpacingBetweenSlices=-7.0)
    headers = headers_of(source, read(source))
    headers[0].PatientSex = "U"
    before = [str(header) for header in headers]
    recwarn.clear()
    write_seg(tmp_path / "seg.dcm", headers, masks_of((2, 9, 10)), labels=LABELS, model=MODEL)
    assert [str(header) for header in headers] == before
    assert not [w for w in recwarn if "NoCaret" in str(w.message)]  # highdicom's warning names the patient
    seg = pydicom.dcmread(tmp_path / "seg.dcm")
    assert (str(seg.PatientName), seg.PatientSex) == ("NoCaret", "U")
    assert seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SpacingBetweenSlices == pytest.approx(2.5)


def test_orientations_that_a_scanner_rounded(tmp_path: Path) -> None:
    source = series(tmp_path / "s", [0, 1])
    picture = read(source)
    headers = headers_of(source, picture)
    headers[1].ImageOrientationPatient = [0.80001, 0.6, 0.0, -0.36, 0.48, 0.8]
    write_seg(tmp_path / "seg.dcm", headers, masks_of((2, 9, 10)), labels=LABELS, model=MODEL)
    np.testing.assert_array_equal(np.stack(read_mask(tmp_path / "seg.dcm", picture)), masks_of((2, 9, 10)))


@pytest.mark.parametrize("spacing", [[0.2, 0.2], None])
def test_an_x_ray_has_neither_frame_of_reference_nor_position(tmp_path: Path, spacing: list[float] | None) -> None:
    tags: dict[str, Any] = {"PixelSpacing": spacing} if spacing else {}
    data = image((9, 10), "x", DigitalXRayImageStorageForPresentation, FrameOfReferenceUID=None, **tags)
    pydicom.dcmwrite(tmp_path / "x.dcm", data, enforce_file_format=False)
    seg, _ = round_trip(tmp_path / "x.dcm", masks_of((1, 9, 10)), tmp_path / "seg.dcm")
    assert "FrameOfReferenceUID" not in seg
    clip = image((1, 9, 10), "us", UltrasoundMultiFrameImageStorage, FrameOfReferenceUID=None, **tags)
    pydicom.dcmwrite(tmp_path / "us.dcm", clip, enforce_file_format=False)
    round_trip(tmp_path / "us.dcm", masks_of((1, 9, 10)), tmp_path / "seg2.dcm")


def refused(tmp_path: Path, headers: Sequence[pydicom.Dataset], count: int) -> OmniFedError:
    with pytest.raises(OmniFedError) as caught:
        write_seg(tmp_path / "seg.dcm", headers, masks_of((count, 9, 10)), labels=LABELS, model=MODEL)
    assert not (tmp_path / "seg.dcm").exists()
    return caught.value


def test_slices_without_a_common_geometry_are_refused(tmp_path: Path) -> None:
    source = series(tmp_path / "s", [0, 1])
    one, two = headers_of(source, read(source))
    two.ImagePositionPatient = one.ImagePositionPatient
    assert refused(tmp_path, [one, two], 2).seen == "two slices at one position"
    two.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    assert refused(tmp_path, [one, two], 2).seen == "slices of several orientations"
    del two.ImagePositionPatient
    assert refused(tmp_path, [one, two], 2).code == "OF641"
    clip = image((3, 9, 10), "us", UltrasoundMultiFrameImageStorage)
    assert refused(tmp_path, [clip], 3).code == "OF641"


def test_headers_without_identifiers_are_refused(tmp_path: Path) -> None:
    source = series(tmp_path / "s", [0, 1])
    one, two = headers_of(source, read(source))
    two.Rows = 8
    assert refused(tmp_path, [one, two], 2).code == "OF640"
    del one.StudyInstanceUID
    assert refused(tmp_path, [one, two], 2).seen == "StudyInstanceUID missing"
    assert refused(tmp_path, [item()], 1).code == "OF640"


def test_masks_that_do_not_fit_are_the_callers_fault(tmp_path: Path) -> None:
    source = series(tmp_path / "s", [0, 1])
    headers = headers_of(source, read(source))
    with pytest.raises(ValueError, match="2 headers"):
        write_seg(tmp_path / "seg.dcm", headers, masks_of((3, 9, 10)), labels=LABELS, model=MODEL)
    with pytest.raises(ValueError, match="masks hold 3"):
        write_seg(tmp_path / "seg.dcm", headers, np.full((2, 9, 10), 3, np.uint8), labels={0: "", 1: "a"}, model=MODEL)


def test_real_series(real_data: Path, tmp_path: Path) -> None:
    source = real_data / "chaos_ct" / "patient_eval01" / "DICOM_anon"
    picture = read(source)
    threshold = np.stack([np.clip((piece.pixels + 100) // 120, 0, 3).astype(np.uint8) for piece in picture.slices])
    seg, _ = round_trip(source, threshold, tmp_path / "ct.dcm")
    assert "PatientID" in seg
    samples = real_data / "dicom_samples"
    for name in ("highdicom/ct_image.dcm", "highdicom/dx_image.dcm"):
        size = read(samples / name).slices[0].pixels.shape[:2]
        round_trip(samples / name, masks_of((1, *size)), tmp_path / "seg.dcm")
