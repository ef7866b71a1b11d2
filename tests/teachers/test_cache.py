import stat
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from omnifed.data.prepared import Prepared
from omnifed.data.views import apply_view
from omnifed.errors import OmniFedError
from omnifed.models.base import Out, SiteSpec
from omnifed.states import read_sealed, write_sealed, write_state
from omnifed.teachers import cache as module
from omnifed.teachers.cache import TeacherCache, quantise
from omnifed.training.batches import Batches
from omnifed.training.spec import TrainSpec

KEY = bytes(range(32))


class Brightness:
    """A teacher whose classes are intensities: exact, so that views can be checked pixel by pixel."""

    id = "a" * 64
    feature_channels: Mapping[str, int] = {"bottleneck": 1}

    def __init__(self, gradient: bool = False, fails_after: int = 1000) -> None:
        self.seen, self.gradient, self.left = 0, gradient, fails_after

    def predict(self, x: Tensor) -> Out:
        if self.left < len(x):
            raise KeyboardInterrupt
        self.left -= len(x)
        self.seen += len(x)
        ramp = torch.linspace(-5, 5, x.shape[-1]).expand_as(x) if self.gradient else x
        logits = torch.cat([-ramp, ramp], dim=1)
        return Out(logits, {"bottleneck": torch.nn.functional.avg_pool2d(x, 4)})


def site(n: int = 3, side: int = 16) -> Prepared:
    images = np.random.default_rng(0).normal(size=(n, 1, side, side)).astype(np.float16)
    return Prepared(
        spec=SiteSpec(1, 2),
        images=images,
        masks=np.full((n, side, side), 255, np.uint8),
        has_mask=np.zeros(n, bool),
        patients=tuple("abcdefghijklmnop"[:n]),
        ids=tuple(f"id{i}" for i in range(n)),
        keys=tuple(f"key{i}" for i in range(n)),
        spacing=np.full((n, 2), np.nan, np.float32),
        present=np.ones(2, bool),
    )


def test_get_returns_the_teachers_own_output_for_each_view(tmp_path: Path) -> None:
    data, teacher = site(), Brightness()
    cache = TeacherCache(tmp_path / "cache", teacher.id, KEY)
    report = cache.build(teacher, data, 3)
    assert (report.cached, report.reused, report.damaged) == (9, 0, 0)
    out = cache.get(["key2", "key0"], [2, 0])
    for place, (row, view) in enumerate([(2, 2), (0, 0)]):
        image = apply_view(torch.from_numpy(data.images[row].astype(np.float32)), data.keys[row], view)
        expected = teacher.predict(image[None])
        limit = expected.logits.abs().max() / 127
        assert (out.logits[place] - expected.logits[0]).abs().max() <= limit
        assert (out.features["bottleneck"][place] - expected.features["bottleneck"][0]).abs().max() <= limit
    assert out.logits.dtype == torch.float32


def test_files_are_private_and_counted(tmp_path: Path) -> None:
    cache = TeacherCache(tmp_path / "cache", Brightness.id, KEY)
    report = cache.build(Brightness(), site(), 2)
    files = [f for f in (tmp_path / "cache").iterdir() if not f.name.startswith("flips-")]
    assert len(files) == 6
    assert {stat.S_IMODE(f.stat().st_mode) for f in files} == {0o600}
    assert stat.S_IMODE((tmp_path / "cache").stat().st_mode) == 0o700
    assert report.bytes == sum(f.stat().st_size for f in files)


def test_a_second_build_computes_nothing(tmp_path: Path) -> None:
    first = TeacherCache(tmp_path, Brightness.id, KEY).build(Brightness(), site(), 2)
    teacher = Brightness()
    second = TeacherCache(tmp_path, Brightness.id, KEY).build(teacher, site(), 2)
    assert (second.cached, second.reused, teacher.seen) == (0, 6, 0)
    assert second.flip_error == first.flip_error


def test_an_interrupted_build_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BATCH", 1)
    with pytest.raises(KeyboardInterrupt):
        TeacherCache(tmp_path, Brightness.id, KEY).build(Brightness(fails_after=2), site(), 2)
    report = TeacherCache(tmp_path, Brightness.id, KEY).build(Brightness(), site(), 2)
    assert (report.cached, report.reused, report.damaged) == (4, 2, 0)


@pytest.mark.parametrize("harm", ["truncated", "altered", "empty", "another map", "another key", "in clear"])
def test_a_damaged_file_is_an_error_to_training_and_computed_anew_by_build(tmp_path: Path, harm: str) -> None:
    data, cache = site(), TeacherCache(tmp_path, Brightness.id, KEY)
    cache.build(Brightness(), data, 1)
    before = cache.get(data.keys, [0, 0, 0]).logits
    path = cache._path("key1", 0)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    maps = read_sealed(cache._path("key2", 0), KEY, "teacher cache")[0]
    if harm == "another key":
        write_sealed(path, maps, {}, bytes(32), "teacher cache")
    elif harm == "in clear":
        write_state(path, maps, {})
    else:
        other = cache._path("key2", 0).read_bytes()
        path.write_bytes({"truncated": content[:-20], "altered": content, "empty": b"", "another map": other}[harm])
    fresh = TeacherCache(tmp_path, Brightness.id, KEY)
    with pytest.raises(OmniFedError, match="OF325"):
        fresh.get(["key1"], [0])
    report = fresh.build(Brightness(), data, 1)
    assert (report.cached, report.reused, report.damaged) == (1, 2, 1)
    assert torch.equal(fresh.get(data.keys, [0, 0, 0]).logits, before)


def test_no_map_lies_in_clear(tmp_path: Path) -> None:
    data, cache = site(), TeacherCache(tmp_path, Brightness.id, KEY)
    cache.build(Brightness(), data, 1)
    codes = quantise(data.images[0].astype(np.float32))[0].tobytes()
    write_state(tmp_path / "plain.safetensors", {"logits": quantise(data.images[0].astype(np.float32))[0]}, {})
    assert codes[:64] in (tmp_path / "plain.safetensors").read_bytes()
    assert not any(codes[:64] in path.read_bytes() for path in tmp_path.glob("*.sealed"))


def test_what_a_former_release_left_in_clear_is_removed(tmp_path: Path) -> None:
    write_state(tmp_path / "0.safetensors", {"logits": np.ones(1)}, {})
    report = TeacherCache(tmp_path, Brightness.id, KEY).build(Brightness(), site(), 1)
    assert (report.cached, report.damaged) == (3, 0)
    assert not list(tmp_path.glob("*.safetensors"))


def test_a_missing_view_is_an_error(tmp_path: Path) -> None:
    cache = TeacherCache(tmp_path, Brightness.id, KEY)
    cache.build(Brightness(), site(), 1)
    with pytest.raises(OmniFedError, match="OF325"):
        cache.get(["key0"], [1])


def test_another_teacher_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OmniFedError, match="OF324"):
        TeacherCache(tmp_path, "b" * 64, KEY).build(Brightness(), site(), 1)


def test_flip_error_is_zero_for_an_equivariant_teacher_and_forbids_joint_flips_for_one_that_is_not(
    tmp_path: Path,
) -> None:
    fair = TeacherCache(tmp_path / "fair", Brightness.id, KEY).build(Brightness(), site(), 1)
    assert (fair.flip_error, fair.joint_flips) == (0.0, True)
    biased = TeacherCache(tmp_path / "biased", Brightness.id, KEY).build(Brightness(gradient=True), site(), 1)
    # Left to right and both ways every label changes, top to bottom none: 2 (16 x 16) of 2 (16 x 16) + 16 x 8 pixels.
    assert biased.flip_error == pytest.approx(512 / 640)
    assert not biased.joint_flips


def test_a_flip_error_that_must_not_be_known_is_not_measured(tmp_path: Path) -> None:
    teacher = Brightness()
    report = TeacherCache(tmp_path, Brightness.id, KEY).build(teacher, site(), 1, mirrored=False)
    assert (teacher.seen, report.flip_error, report.joint_flips) == (3, 0.0, False)
    assert not list(tmp_path.glob("flips-*"))


def test_an_upright_modality_is_mirrored_left_to_right_alone(tmp_path: Path) -> None:
    data = replace(site(), spec=SiteSpec(1, 2, modality="ct"))
    cache = TeacherCache(tmp_path, Brightness.id, KEY)
    report = cache.build(Brightness(gradient=True), data, 2)
    assert report.flip_error == 1.0
    plain, mirrored = (cache.get(data.keys, [view] * 3).features["bottleneck"] for view in (0, 1))
    assert torch.allclose(mirrored, plain.flip(-1), atol=1e-6)


def test_the_store_in_memory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, cache = site(6), TeacherCache(tmp_path, Brightness.id, KEY)
    cache.build(Brightness(), data, 1)
    one = 2 * 256 + 16 + 4 * 3
    monkeypatch.setattr(module, "STORE_BYTES", 3 * one)
    for _ in range(2):
        for key in data.keys:
            cache.get([key], [0])
            assert cache._stored == len(cache._store) * one <= 3 * one
    assert [key for key, _ in cache._store] == ["key3", "key4", "key5"]


@given(arrays(np.float32, (3, 2, 4), elements=st.floats(-1e6, 1e6, width=32)))
def test_quantisation_errs_by_at_most_half_a_step(maps: np.ndarray) -> None:
    codes, scale = quantise(maps)
    assert codes.dtype == np.int8
    assert scale.dtype == np.float16
    back = codes.astype(np.float64) * scale.astype(np.float64)[:, None, None]
    assert (np.abs(back - maps) <= scale.astype(np.float64)[:, None, None] * 0.501).all()
    assert (np.abs(codes.astype(int)) <= 127).all()


def test_quantisation_by_hand() -> None:
    codes, scale = quantise(np.array([[[127.0, -63.6]], [[0.0, 0.0]]], np.float32))
    assert codes.tolist() == [[[127, -64]], [[0, 0]]]
    assert scale.tolist() == [1.0, 0.0]


@pytest.mark.parametrize("modality", ["ct", "dermoscopy"])
def test_batches_show_the_student_the_view_that_the_teacher_saw(tmp_path: Path, modality: str) -> None:
    data = replace(site(), spec=SiteSpec(1, 2, modality=modality))
    cache = TeacherCache(tmp_path, Brightness.id, KEY)
    cache.build(Brightness(), data, 4)
    batches = Batches(data, TrainSpec(batch_size=3), cache=cache, views=4)
    image, label = torch.from_numpy(data.images.astype(np.float32)), torch.from_numpy(data.masks)
    for view in range(4):
        seen, _, out = batches._view(np.arange(3), np.full(3, view), image, label)
        pooled = torch.nn.functional.avg_pool2d(seen, 4)
        assert (out.features["bottleneck"] - pooled).abs().max() <= pooled.abs().max() / 127


def test_maps_of_a_teacher_that_has_diverged_stay_finite():
    steps, scale = quantise(np.array([[[1e8, -1e8, 0.0]], [[127.0, 1.0, -127.0]]], np.float32))
    np.testing.assert_array_equal(scale, np.float16([65504, 1]))
    np.testing.assert_array_equal(steps[:, 0], [[127, -127, 0], [127, 1, -127]])
