"""Damaged bytes end in a numbered failure or a prediction, and in nothing else."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from conftest import threshold_model
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_series import enhanced, series
from PIL import Image

from omnifed.export.session import Session, load
from omnifed.predict.run import predict_all


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    return load(threshold_model(tmp_path_factory.mktemp("model") / "m.onnx"), threads=1)


def made(kind: str, folder: Path) -> Path:
    """A whole input; returns the file that is to be damaged."""
    folder.mkdir()
    if kind == "nifti":
        nib.save(nib.Nifti1Image(np.zeros((4, 5, 3), np.int16), np.eye(4)), folder / "v.nii")
        return folder / "v.nii"
    if kind == "image":
        Image.fromarray(np.zeros((6, 7), np.uint8)).save(folder / "i.png")
        return folder / "i.png"
    if kind == "enhanced":
        return enhanced(folder / "m.dcm", [0, 1, 2])
    return series(folder / "s", [0, 1, 2]) / "001.dcm"


@pytest.mark.parametrize("kind", ["nifti", "image", "series", "enhanced"])
@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage(kind: str, session: Session, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("damage")
    path = made(kind, folder / "in")
    raw = bytearray(path.read_bytes())
    for at in data.draw(st.lists(st.integers(0, len(raw) - 1), min_size=1, max_size=6)):
        raw[at] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(raw[: data.draw(st.integers(len(raw) // 2, len(raw)))]))
    report = predict_all(session, folder / "in", folder / "out", overlay="none")
    assert len(report.predictions) + len(report.failed) >= 1
    written = {str(file) for file in (folder / "out").rglob("*") if file.is_file()}
    assert written == {name for done in report.predictions for name in done.outputs}
