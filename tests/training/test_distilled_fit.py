"""The parts together: teacher, cache, joint views, OmniKD, the loop; and one fit on real slices."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from discs import TinyNet, make_discs
from torch import Tensor

from omnifed.distill.omnikd import OmniKD
from omnifed.distill.spec import DistillSpec
from omnifed.evaluation.metrics import mean_dice
from omnifed.evaluation.predict import predict_masks
from omnifed.models.base import BOTTLENECK, Out
from omnifed.teachers.cache import TeacherCache
from omnifed.teachers.registry import build_teacher
from omnifed.teachers.spec import TeacherSpec
from omnifed.training.batches import Batches
from omnifed.training.loop import fit
from omnifed.training.objectives import distilled, supervised
from omnifed.training.spec import TrainSpec

SPEC = TrainSpec(steps=60, batch_size=8, lr=1e-2, precision="fp32")


class BrightnessTeacher:
    """Knows that the discs are bright."""

    id = "ab" * 32
    feature_channels: Mapping[str, int] = {BOTTLENECK: 2}

    def predict(self, x: Tensor) -> Out:
        small = F.avg_pool2d(x, 4)
        return Out(torch.cat([-4 * small, 4 * small], 1), {BOTTLENECK: torch.cat([small, small.square()], 1)})


def test_the_cached_maps_of_every_view_lie_on_the_label(tmp_path: Path) -> None:
    data, teacher = make_discs(8), BrightnessTeacher()
    cache = TeacherCache(tmp_path / "cache", teacher.id, bytes(32))
    cache.build(teacher, data, views=4)  # type: ignore[arg-type]
    batches = Batches(data, TrainSpec(batch_size=8), cache=cache, views=4)
    for step in range(4):
        batch = batches.batch(step)
        assert batch.teacher is not None
        shown = F.interpolate(batch.teacher.logits, (32, 32), mode="bilinear").argmax(1)
        assert float((shown == batch.label).float().mean()) > 0.93


def test_a_student_learns_from_images_without_masks_alone(tmp_path: Path) -> None:
    data, val, teacher = make_discs(12, labelled=0), make_discs(6, seed=1), BrightnessTeacher()
    cache = TeacherCache(tmp_path / "cache", teacher.id, bytes(32))
    cache.build(teacher, data, views=2)  # type: ignore[arg-type]
    net = TinyNet()
    before = mean_dice(predict_masks(net, val), val)
    omnikd = OmniKD(DistillSpec(beta=1.0), net.feature_channels, teacher.feature_channels)
    result = fit(net, data, val, SPEC, distilled(omnikd), batches=Batches(data, SPEC, cache=cache, views=2))
    assert result.loss["ce"] == result.loss["dice"] == 0
    assert result.dice > max(0.85, before + 0.2)


def test_the_embedded_teacher_feeds_every_term(tmp_path: Path) -> None:
    data = make_discs(6)
    teacher = build_teacher(TeacherSpec(kind="sam-tiny", size=64), data.spec, image_size=(32, 32))
    cache = TeacherCache(tmp_path / "cache", teacher.id, bytes(32))
    report = cache.build(teacher, data, views=2)
    net = TinyNet()
    omnikd = OmniKD(DistillSpec(calibration_steps=3), net.feature_channels, teacher.feature_channels)
    spec = SPEC.model_copy(update={"steps": 4})
    batches = Batches(data, spec, cache=cache, views=2, joint_flips=report.joint_flips)
    result = fit(net, data, None, spec, distilled(omnikd), batches=batches)
    assert omnikd.skipped == {}
    assert omnikd.frozen
    assert {f"kd_{name}" for name in omnikd.terms} < set(result.loss)


def test_real_slices(real_data: Path, tmp_path: Path) -> None:
    from omnifed.data.prepare import prepare
    from omnifed.data.site_folder import load_site

    site = prepare(load_site(real_data / "chaos_ct"), tmp_path, image_size=(64, 64))
    net = TinyNet()
    spec = TrainSpec(steps=80, lr=1e-2, validate_every=20, precision="fp32")
    result = fit(net, site.train, site.val, spec, supervised())
    assert result.dice == pytest.approx(mean_dice(predict_masks(net, site.val), site.val))
    assert result.dice > 0.5
