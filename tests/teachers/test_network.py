import stat
from pathlib import Path

import numpy as np
import pytest
import torch

from omnifed.data.prepared import Prepared
from omnifed.errors import OmniFedError
from omnifed.evaluation.metrics import mean_dice
from omnifed.evaluation.predict import predict_masks
from omnifed.models.base import SiteSpec
from omnifed.teachers.cache import TeacherCache
from omnifed.teachers.network import NetworkTeacher
from omnifed.teachers.registry import build_teacher
from omnifed.teachers.spec import TeacherSpec
from omnifed.training.spec import TrainSpec

KEY = bytes(range(32))
SITE = SiteSpec(1, 2, modality="ct")
FIT = TrainSpec(steps=12, batch_size=4, lr=3e-3, warmup=2, schedule="poly", validate_every=6, precision="fp32")


def tiny(seed: int = 0, classes: int = 2, size: int = 64, train: TrainSpec = FIT) -> NetworkTeacher:
    spec = TeacherSpec(kind="sam-tiny", size=size, train=train)
    teacher = build_teacher(spec, SiteSpec(1, classes, modality="ct"), image_size=(64, 64), seed=seed)
    assert isinstance(teacher, NetworkTeacher)
    return teacher


def test_a_fit_improves_the_teacher_and_its_maps_can_be_cached(train: Prepared, val: Prepared, tmp_path: Path) -> None:
    teacher = tiny()
    before, first = mean_dice(predict_masks(teacher.predict, val), val), teacher.id
    metrics = teacher.fit(train, val)
    after = mean_dice(predict_masks(teacher.predict, val), val)
    assert metrics["dice"] == pytest.approx(after)
    assert metrics["dice_before"] == pytest.approx(before)
    assert after > before + 0.05
    assert metrics["seconds"] > 0
    assert teacher.id != first
    report = TeacherCache(tmp_path, teacher.id, KEY).build(teacher, train, 2)
    assert report.cached == 16  # with and without mask
    out = TeacherCache(tmp_path, teacher.id, KEY).get([train.keys[7]], [0])
    assert out.logits.shape == (1, 2, 16, 16)
    assert {name: value.shape[1] for name, value in out.features.items()} == dict(teacher.feature_channels)
    exact = teacher.predict(torch.from_numpy(np.asarray(train.images[7:8], np.float32)))
    assert (out.logits - exact.logits).abs().max() <= exact.logits.abs().max() / 127


def test_a_fit_that_harms_is_undone(train: Prepared, val: Prepared) -> None:
    good = tiny()
    good.fit(train, val)
    weights = good.id
    good._train = FIT.model_copy(update={"lr": 1.0, "warmup": 0, "grad_clip": 0.0, "validate_every": 0})
    metrics = good.fit(train, val)
    assert metrics["dice"] == metrics["dice_before"] > 0.1
    assert good.id == weights


def test_the_cnn_is_fitted_by_the_same_loop_and_returns_maps_of_a_fourth(train: Prepared, val: Prepared) -> None:
    spec = TeacherSpec(kind="cnn", size=32, train=FIT.model_copy(update={"steps": 2, "batch_size": 2}))
    teacher = build_teacher(spec, SITE, image_size=(64, 64))
    first = teacher.id
    metrics = teacher.fit(train, val)
    assert 0 <= metrics["dice"] <= 1
    assert teacher.id != first
    out = teacher.predict(torch.randn(2, 1, 64, 64))
    assert out.logits.shape == (2, 2, 8, 8)
    assert {name: value.shape[1] for name, value in out.features.items()} == dict(teacher.feature_channels)


def test_save_and_load_give_the_same_teacher(tmp_path: Path) -> None:
    one, other = tiny(seed=1), tiny(seed=1)
    with torch.no_grad():
        one.network.mask_decoder.mask_tokens.weight.add_(1.0)
    one.save(tmp_path / "t.sealed", KEY)
    assert stat.S_IMODE((tmp_path / "t.sealed").stat().st_mode) == 0o600
    assert one.id != other.id
    other.load(tmp_path / "t.sealed", KEY)
    assert one.id == other.id
    x = torch.randn(2, 1, 64, 64)
    assert torch.equal(one.predict(x).logits, other.predict(x).logits)


@pytest.mark.parametrize("change", [{"classes": 3}, {"size": 96}])
def test_weights_of_another_teacher_are_refused(tmp_path: Path, change: dict[str, int]) -> None:
    tiny().save(tmp_path / "t.sealed", KEY)
    with pytest.raises(OmniFedError, match="OF326"):
        tiny(**change).load(tmp_path / "t.sealed", KEY)


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.sealed"
    tiny().save(path, KEY)
    with pytest.raises(OmniFedError, match="OF875"):
        tiny().load(path, bytes(32))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(OmniFedError, match="OF875"):
        tiny().load(path, KEY)
    with pytest.raises(OmniFedError, match="OF104"):
        tiny().load(tmp_path / "absent.sealed", KEY)


def test_the_id_is_a_function_of_weights_and_preprocessing() -> None:
    assert tiny().id == tiny().id
    assert tiny().id != tiny(size=96).id  # LoRA's random half also counts, but the size alone must do
    assert len(tiny().id) == 64


def test_predict_has_no_graph_and_building_leaves_the_global_random_state() -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    out = tiny().predict(torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(0)))
    assert not out.logits.requires_grad
    assert torch.equal(torch.get_rng_state(), state)
