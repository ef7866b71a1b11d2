"""DICOM SEG against the images that it was drawn on: real files of dcmqi and highdicom."""

from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
from made_files import config, dicom, disc, index, slice_file
from pydicom.sr.codedict import codes

from omnifed.data.case import read_case
from omnifed.data.index import Row
from omnifed.data.propose import propose_site
from omnifed.data.readers.registry import mask_values, read_image, read_mask
from omnifed.data.site_folder import Site
from omnifed.errors import OmniFedError


def test_a_real_liver_lands_on_its_slices(real_data: Path) -> None:
    folder = real_data / "dicom_samples" / "dcmqi_ct3"
    series = read_image(folder)  # the SEG and NRRD files beside it are no slices
    masks = read_mask(folder / "seg_liver.dcm", series)
    assert [int(m.sum()) for m in masks] == [36233, 35645, 35220]
    inside = np.concatenate([s.pixels[m == 1] for s, m in zip(series.slices, masks, strict=True)])
    assert 40 < np.median(inside) < 130  # the HU of a liver
    one = read_image(folder / "02.dcm")
    np.testing.assert_array_equal(read_mask(folder / "seg_liver.dcm", one)[0], masks[1])
    assert mask_values(folder / "seg_liver.dcm") == {1: "Liver"}


def test_overlapping_segments_need_a_choice(real_data: Path) -> None:
    folder = real_data / "dicom_samples" / "dcmqi_ct3"
    series = read_image(folder)
    with pytest.raises(OmniFedError, match="OF224"):
        read_mask(folder / "seg_partial_overlaps.dcm", series)
    masks = read_mask(folder / "seg_partial_overlaps.dcm", series, drop={2, 3})
    assert [sorted(np.unique(m)) for m in masks] == [[0, 4, 5], [0, 1], [0]]
    labels = {0: "background", 1: "green", 2: "light blue"}
    site = Site(config(labels=labels, mask_values={1: 1, 2: 0, 3: 0, 4: 2, 5: 0}), folder, ())
    cases, skipped = read_case(site, Row(".", "seg_partial_overlaps.dcm", "p"))
    assert not skipped
    assert [sorted(np.unique(c.mask).tolist()) for c in cases if c.mask is not None] == [[0, 2], [0, 1], [0]]


def test_the_segmentation_of_another_image_is_refused(real_data: Path) -> None:
    folder = real_data / "dicom_samples"
    series = read_image(folder / "dcmqi_ct3")
    for name in ("seg_image_ct_binary.dcm", "seg_image_ct_true_fractional.dcm", "seg_image_cr_binary.dcm"):
        with pytest.raises(OmniFedError, match="OF223"):
            read_mask(folder / "highdicom" / name, series)
    with pytest.raises(OmniFedError, match="OF221"):
        read_mask(folder / "dcmqi_ct3" / "01.dcm", series)


def test_the_proposal_takes_the_names_of_the_segments(real_data: Path, tmp_path: Path) -> None:
    folder = real_data / "dicom_samples" / "dcmqi_ct3"
    index(tmp_path, f"{folder},{folder / 'seg_liver.dcm'},p")
    proposal = propose_site(tmp_path)
    assert proposal.labels == {0: "background", 1: "Liver"}
    assert proposal.modality == "ct"
    assert proposal.normalisation.kind == "window"


def _segmentation(sources: list[pydicom.Dataset], masks: np.ndarray, kind: str) -> pydicom.Dataset:
    for source in sources:
        source.PatientID, source.PatientName, source.StudyInstanceUID = "p", "p", "1.2.3.4"
        source.PatientBirthDate = source.PatientSex = source.AccessionNumber = source.StudyID = ""
        source.StudyDate = source.StudyTime = None
        source.FrameOfReferenceUID, source.SliceThickness = "1.2.3.5", 1
    described = highdicom.seg.SegmentDescription(
        segment_number=1,
        segment_label="disc",
        segmented_property_category=codes.SCT.Organ,
        segmented_property_type=codes.SCT.Liver,
        algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.MANUAL,
    )
    return highdicom.seg.Segmentation(
        sources, masks, kind, [described], "1.2.3.6", 1, "1.2.3.7", 1, "made", "made", "1", "1", omit_empty_frames=True
    )


@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL"])
def test_frames_are_matched_by_source_and_by_position(tmp_path: Path, kind: str) -> None:
    sources = [slice_file(np.zeros((32, 32)), float(z), z + 1) for z in range(3)]
    for z in range(3):
        dicom(tmp_path / "s" / f"{z}.dcm", np.zeros((32, 32)), float(z), z + 1)
    masks = np.stack([disc(), disc() * 0, disc()[::-1]])
    seg = _segmentation(sources, masks if kind == "BINARY" else masks.astype(float), kind)
    seg.save_as(tmp_path / "seg.dcm")
    series = read_image(tmp_path / "s")
    np.testing.assert_array_equal(np.stack(read_mask(tmp_path / "seg.dcm", series)), masks)
    # The same series under new UIDs, as an anonymiser leaves it: position is all there is.
    for z in range(3):
        dicom(tmp_path / "t" / f"{z}.dcm", np.zeros((32, 32)), float(z), z + 1, SOPInstanceUID=f"1.9.{z}")
    np.testing.assert_array_equal(np.stack(read_mask(tmp_path / "seg.dcm", read_image(tmp_path / "t"))), masks)
    dicom(tmp_path / "far.dcm", np.zeros((32, 32)), 77.0, 9, SeriesInstanceUID="1.8")
    with pytest.raises(OmniFedError, match="OF223"):
        read_mask(tmp_path / "seg.dcm", read_image(tmp_path / "far.dcm"))
