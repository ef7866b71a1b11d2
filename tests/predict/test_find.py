"""What is taken for an input, and where its prediction goes."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_series import series

from omnifed.errors import OmniFedError
from omnifed.predict.find import find


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def plan(source: Path, target: Path, overlay: str = "sheet") -> dict[str, tuple[str, str, str | None]]:
    items = find(source, target, overlay, overwrite=False)  # type: ignore[arg-type]
    return {
        str(item.source.relative_to(source.parent)): (
            item.kind,
            str(item.output.relative_to(target)),
            str(item.overlay.relative_to(target)) if item.overlay else None,
        )
        for item in items
    }


def refused(code: str, source: Path, target: Path) -> str:
    with pytest.raises(OmniFedError) as caught:
        find(source, target, "sheet", overwrite=False)
    assert caught.value.code == code, str(caught.value)
    return caught.value.seen


def test_folders_are_kept_and_the_dicom_files_of_one_are_a_series(tmp_path: Path) -> None:
    touch(tmp_path / "in", "a.png", "sub/b.tar.jpeg", "sub/c.nii.gz", ".hidden.png", ".git/x.png")
    touch(tmp_path / "in", "notes.txt", "index.csv")
    series(tmp_path / "in" / "ct" / "1.2.840", [0, 1])
    touch(tmp_path / "in" / "ct" / "1.2.840", "DICOMDIR", "beside.png")
    assert plan(tmp_path / "in", tmp_path / "out") == {
        "in/a.png": ("image", "a.png", "a_overlay.png"),
        "in/ct/1.2.840": ("dicom", "ct/1.2.840_seg.dcm", "ct/1.2.840_overlay.png"),
        "in/ct/1.2.840/beside.png": ("image", "ct/1.2.840/beside.png", "ct/1.2.840/beside_overlay.png"),
        "in/sub/b.tar.jpeg": ("image", "sub/b.tar.png", "sub/b.tar_overlay.png"),
        "in/sub/c.nii.gz": ("nifti", "sub/c_seg.nii.gz", "sub/c_overlay.png"),
    }
    slices = plan(tmp_path / "in", tmp_path / "out", "slices")
    assert (slices["in/sub/c.nii.gz"][2], slices["in/a.png"][2]) == ("sub/c_overlay", "a_overlay.png")


def test_a_series_a_file_of_it_and_an_output_file(tmp_path: Path) -> None:
    folder = series(tmp_path / "ct", [0, 1])
    assert plan(folder, tmp_path / "out") == {"ct": ("dicom", "ct_seg.dcm", "ct_overlay.png")}
    (one,) = find(folder / "000.dcm", tmp_path / "out", "none", overwrite=False)
    assert (one.output, one.overlay) == (tmp_path / "out" / "000_seg.dcm", None)
    (named,) = find(folder, tmp_path / "out" / "liver.dcm", "slices", overwrite=False)
    assert (named.output.name, named.overlay) == ("liver.dcm", tmp_path / "out" / "liver_overlay")
    assert "kind dicom" in refused("OF624", folder, tmp_path / "liver.nii.gz")
    touch(tmp_path / "two", "a.png", "b.png")
    assert "2 inputs" in refused("OF624", tmp_path / "two", tmp_path / "both.png")


def test_nothing_to_predict(tmp_path: Path) -> None:
    (tmp_path / "empty" / "deeper").mkdir(parents=True)
    assert "no image" in refused("OF620", tmp_path / "empty", tmp_path / "out")
    assert "not there" in refused("OF620", tmp_path / "absent", tmp_path / "out")


def test_inputs_are_not_overwritten_nor_added_to(tmp_path: Path) -> None:
    touch(tmp_path / "in", "a.png", "sub/b.png")
    for target in (tmp_path / "in", tmp_path / "in" / "out", tmp_path / "x" / ".." / "in" / "out"):
        refused("OF621", tmp_path / "in", target)
    assert "is an input" in refused("OF621", tmp_path / "in" / "a.png", tmp_path / "in")
    refused("OF621", tmp_path / "in" / "sub", tmp_path / "in" / "sub" / ".." / "sub")
    (tmp_path / "link").symlink_to(tmp_path / "in")
    refused("OF621", tmp_path / "in" / "a.png", tmp_path / "link")
    assert len(find(tmp_path / "in", tmp_path, "none", overwrite=False)) == 2  # above the input: nothing is in the way


def test_two_inputs_do_not_share_an_output(tmp_path: Path) -> None:
    touch(tmp_path / "in", "a.png", "a.jpg")
    assert "both become" in refused("OF621", tmp_path / "in", tmp_path / "out")
    touch(tmp_path / "other", "a.png", "a_overlay.png")
    assert "both become" in refused("OF621", tmp_path / "other", tmp_path / "out")


def test_existing_predictions_are_kept(tmp_path: Path) -> None:
    touch(tmp_path / "in", "a.png", "b.png")
    touch(tmp_path / "out", "a.png", "b_overlay.png")
    assert "and 1 more" in refused("OF622", tmp_path / "in", tmp_path / "out")
    assert len(find(tmp_path / "in", tmp_path / "out", "sheet", overwrite=True)) == 2


def test_links_are_followed_once(tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere", "a.png")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "patient").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "broken.png").symlink_to(tmp_path / "nowhere")
    assert set(plan(tmp_path / "in", tmp_path / "out")) == {"in/patient/a.png", "in/broken.png"}
