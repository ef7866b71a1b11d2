from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from discs import make_discs
from hypothesis import given, settings
from hypothesis import strategies as st

from omnifed.data.prepared import Prepared
from omnifed.errors import OmniFedError
from omnifed.models.base import BOTTLENECK, Out
from omnifed.training.batches import Batches
from omnifed.training.spec import TrainSpec


class OracleCache:
    """Gives, for each view of an image, the image itself at a quarter of its size: what must stay aligned with it."""

    def __init__(self, prepared: Prepared) -> None:
        self.images = dict(zip(prepared.keys, torch.from_numpy(prepared.images.astype(np.float32)), strict=True))
        self.asked: list[tuple[str, int]] = []

    def get(self, keys: Sequence[str], views: Sequence[int]) -> Out:
        from omnifed.data.views import apply_view

        self.asked += list(zip(keys, views, strict=True))
        images = torch.stack([apply_view(self.images[k], k, v) for k, v in zip(keys, views, strict=True)])
        small = F.avg_pool2d(images, 4)
        return Out(torch.cat([-small, small], 1), {BOTTLENECK: F.avg_pool2d(images, 8)})


def test_a_batch_is_a_function_of_seed_and_step() -> None:
    data = make_discs(10)
    first, second = (Batches(data, TrainSpec(batch_size=4, seed=3)) for _ in range(2))
    second.batch(0)
    a, b = first.batch(5), second.batch(5)
    assert torch.equal(a.image, b.image)
    assert torch.equal(a.label, b.label)
    assert not torch.equal(a.image, Batches(data, TrainSpec(batch_size=4, seed=4)).batch(5).image)
    assert (a.image.dtype, a.label.dtype, a.index.dtype) == (torch.float32, torch.int64, torch.int64)
    assert a.image.shape == (4, 1, 32, 32)


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 9), size=st.integers(1, 8), seed=st.integers(0, 99))
def test_every_image_once_an_epoch_whatever_the_batch(n: int, size: int, seed: int) -> None:
    batches = Batches(make_discs(n), TrainSpec(batch_size=size, seed=seed))
    rows = np.concatenate([batches.rows(step) for step in range(2 * n)])
    assert all(len(batches.rows(step)) == size for step in range(3))
    for epoch in rows[: len(rows) // n * n].reshape(-1, n):
        assert sorted(epoch) == list(range(n))


def test_a_single_image_fills_the_batch_with_different_copies() -> None:
    batch = Batches(make_discs(1), TrainSpec(batch_size=8)).batch(0)
    assert batch.index.tolist() == [0] * 8
    assert len({image.numpy().tobytes() for image in batch.image}) == 8


def test_without_augmentation_the_images_are_the_split() -> None:
    data = make_discs(6)
    batch = Batches(data, TrainSpec(batch_size=3, augment=False)).batch(1)
    rows = batch.index.numpy()
    assert np.array_equal(batch.image.numpy(), data.images[rows].astype(np.float32))
    assert np.array_equal(batch.label.numpy(), data.masks[rows])


def test_the_label_moves_with_the_image() -> None:
    """The discs are bright: wherever the label says disc, the warped image must be bright too."""
    data = make_discs(8)
    for step in range(6):
        batch = Batches(data, TrainSpec(batch_size=8)).batch(step)
        for image, label in zip(batch.image[:, 0], batch.label, strict=True):
            level = (image[label == 1].mean() + image[label == 0].mean()) / 2
            bright = F.avg_pool2d((image > level).float()[None], 3, 1, 1)[0] > 0.5
            assert float((bright == (label == 1)).float().mean()) > 0.9


def test_the_teachers_maps_move_with_the_image() -> None:
    data = make_discs(8)
    cache = OracleCache(data)
    batches = Batches(data, TrainSpec(batch_size=8), cache=cache, views=4)
    for step in range(4):
        batch = batches.batch(step)
        assert batch.teacher is not None
        teacher = F.interpolate(batch.teacher.logits, (32, 32), mode="bilinear").argmax(1)
        assert float((teacher == batch.label).float().mean()) > 0.93
        assert batch.teacher.features[BOTTLENECK].shape == (8, 1, 4, 4)
    assert {view for _, view in cache.asked} == {0, 1, 2, 3}


def test_intensity_changes_never_reach_the_teachers_maps() -> None:
    data = make_discs(4)
    batch = Batches(data, TrainSpec(batch_size=32), cache=OracleCache(data)).batch(0)
    assert batch.teacher is not None
    assert float(batch.teacher.logits.abs().max()) <= float(np.abs(data.images).max())
    pooled = F.avg_pool2d(batch.image, 4)
    changed = (pooled - batch.teacher.logits[:, 1:]).abs().flatten(1).mean(1)
    assert (changed > 0.1).any()


def test_without_augmentation_only_the_plain_view_is_asked_for() -> None:
    data = make_discs(4)
    cache = OracleCache(data)
    Batches(data, TrainSpec(batch_size=4, augment=False), cache=cache, views=4).batch(0)
    assert {view for _, view in cache.asked} == {0}


def test_without_joint_flips_nothing_is_mirrored() -> None:
    data = make_discs(4)
    batches = Batches(data, TrainSpec(), cache=OracleCache(data), joint_flips=False)
    assert batches._augment is not None
    theta = batches._augment.draw(range(50), (32, 32)).theta
    assert float(theta[:, [0, 1], [0, 1]].min()) > 0


@pytest.mark.parametrize(("labelled", "share"), [(1, 7), (4, 7), (8, 7), (12, 8), (0, 0)])
def test_images_without_a_mask_never_crowd_out_the_others(labelled: int, share: int) -> None:
    data = make_discs(12, labelled=labelled)
    batches = Batches(data, TrainSpec(batch_size=8), cache=OracleCache(data))
    for step in range(3):
        batch = batches.batch(step)
        assert int(batch.has_label.sum()) == share
        assert len(batch.image) == 8
        assert bool((batch.label[~batch.has_label] == 255).all())


def test_images_without_a_mask_are_left_out_without_a_teacher() -> None:
    data = make_discs(12, labelled=5)
    for batches in (
        Batches(data, TrainSpec()),
        Batches(data, TrainSpec(), cache=OracleCache(data), labelled_only=True),
    ):
        assert len(batches) == 5
        assert bool(batches.batch(0).has_label.all())


def test_nothing_to_learn_from_is_an_error() -> None:
    with pytest.raises(OmniFedError, match="OF402"):
        Batches(make_discs(3, labelled=0), TrainSpec())
    with pytest.raises(OmniFedError, match="OF402"):
        Batches(make_discs(0), TrainSpec())
