"""Real files of hospitals, through a model whose masks are known."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
from conftest import Make
from PIL import Image

from omnifed.data.normalise import normalise
from omnifed.data.readers.registry import read_image, read_mask
from omnifed.data.site import Normalisation
from omnifed.export.session import Session, load
from omnifed.predict.network import segment
from omnifed.predict.run import predict_all


def in_memory(session: Session, path: Path) -> list[np.ndarray]:
    card = session.card
    picture = read_image(path, slice_axis=card.slice_axis, voi=card.normalisation.kind in ("minmax", "rgb"))
    planes = normalise([piece.pixels for piece in picture.slices], card.normalisation, card.channels)
    return [segment(session, plane, "resize") for plane in planes]


def test_an_abdominal_ct(real_data: Path, make_model: Make, tmp_path: Path) -> None:
    session = load(make_model(size=(128, 128)), threads=1)
    series = real_data / "chaos_ct" / "patient_eval01" / "DICOM_anon"
    (done,) = predict_all(session, series, tmp_path).predictions
    wanted = in_memory(session, series)
    back = read_mask(tmp_path / "DICOM_anon_seg.dcm", read_image(series))
    np.testing.assert_array_equal(np.stack(back), np.stack(wanted))
    first, second = (read_image(series).slices[k] for k in (0, 1))
    assert first.plane is not None and second.plane is not None  # noqa: PT018
    distance = float(np.linalg.norm(second.plane[:, 2] - first.plane[:, 2]))
    voxel = first.spacing[0] * first.spacing[1] * distance / 1000
    np.testing.assert_allclose(done.labels["liver"].ml, sum((m == 1).sum() for m in wanted) * voxel, rtol=1e-5)
    assert 1000 < done.labels["tumour"].ml < 10_000  # what is denser than 50 HU in a third of an abdomen


def test_three_slices_with_segmentations_beside_them(real_data: Path, make_model: Make, tmp_path: Path) -> None:
    folder = tmp_path / "ct3"
    folder.mkdir()
    for file in (real_data / "dicom_samples" / "dcmqi_ct3").glob("*.dcm"):
        shutil.copy(file, folder)
    session = load(make_model(size=(64, 64)), threads=1)
    (done,) = predict_all(session, folder, tmp_path / "out", overlay="none").predictions
    assert done.slices == 3
    back = read_mask(tmp_path / "out" / "ct3_seg.dcm", read_image(folder))
    np.testing.assert_array_equal(np.stack(back), np.stack(in_memory(session, folder)))


def test_a_photograph_of_the_skin(real_data: Path, make_model: Make, tmp_path: Path) -> None:
    how = Normalisation(kind="rgb")
    session = load(make_model(size=(128, 128), channels=3, normalisation=how, modality="dermoscopy"), threads=1)
    path = min((real_data / "isic" / "images").glob("*.jpg"))
    assert predict_all(session, path, tmp_path).failed == ()
    with Image.open(tmp_path / f"{path.stem}.png") as png:
        np.testing.assert_array_equal(np.asarray(png), in_memory(session, path)[0])


def test_an_mri_sliced_along_the_axis_of_training(real_data: Path, make_model: Make, tmp_path: Path) -> None:
    how = Normalisation(kind="percentile")
    session = load(make_model(size=(64, 64), normalisation=how, modality="mri", slice_axis=1), threads=1)
    path = min((real_data / "hippocampus3d" / "images").glob("*.nii.gz"))
    (done,) = predict_all(session, path, tmp_path / "v_seg.nii.gz").predictions
    source, result = nib.load(path), nib.load(tmp_path / "v_seg.nii.gz")
    np.testing.assert_array_equal(result.affine, source.affine)
    assert result.shape == source.shape
    picture = read_image(path, slice_axis=1)
    assert done.slices == len(picture.slices)
    back = read_mask(tmp_path / "v_seg.nii.gz", picture)
    np.testing.assert_array_equal(np.stack(back), np.stack(in_memory(session, path)))
