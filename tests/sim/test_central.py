"""The ceiling arm: equal sites pool their images, unlike sites share one trunk."""

from __future__ import annotations

import numpy as np

from omnifed.data.prepare import SiteData
from omnifed.data.prepared import Prepared
from omnifed.data.site import Normalisation, SiteConfig
from omnifed.models.base import partition
from omnifed.models.registry import build_student
from omnifed.models.spec import StudentSpec
from omnifed.training.spec import TrainSpec
from omnifed_sim.central import pool, train_central

STUDENT = StudentSpec(alpha=0.6, beta=0.5, stem_stride=2)
TRAIN = TrainSpec(steps=1, batch_size=2, lr=1e-3, precision="fp32")


def site(name: str, channels: int, classes: int, n: int = 3) -> SiteData:
    config = SiteConfig(
        name=name,
        modality="mri",
        channels=channels,  # type: ignore[arg-type]
        labels={i: f"l{i}" for i in range(classes)},
        normalisation=Normalisation(kind="minmax"),
    )
    rng = np.random.default_rng(channels)
    names = tuple(f"{name}{i}" for i in range(n))
    split = Prepared(
        config.spec,
        rng.normal(size=(n, channels, 32, 32)).astype(np.float16),
        rng.integers(0, classes, (n, 32, 32)).astype(np.uint8),
        np.ones(n, bool),
        names,
        names,
        names,
        np.full((n, 2), np.nan, np.float32),
        np.arange(classes) != 1,
    )
    return SiteData(config, split, split, split, (), ())


def test_unlike_sites_share_the_trunk_and_keep_their_own_stem_head_and_norms() -> None:
    sites = [site("a", 1, 3), site("b", 3, 2)]
    local = ("stem", "head", "norm")
    first, second = train_central(sites, STUDENT, TRAIN, local)
    start = build_student(STUDENT, sites[0].config.spec)
    sides = partition(start.layer_groups(), local)
    shared = [key for key, side in sides.items() if side == "global"]
    assert all(np.array_equal(first[key], second[key]) for key in shared)
    assert any(not np.array_equal(first[key], start.state_dict()[key].numpy()) for key in shared)
    assert first["stem.conv.weight"].shape != second["stem.conv.weight"].shape
    assert not np.array_equal(first["stem.norm.running_mean"], second["stem.norm.running_mean"])


def test_equal_sites_train_one_model_on_all_images() -> None:
    first, second = train_central([site("a", 1, 2), site("b", 1, 2)], STUDENT, TRAIN, ())
    assert first is second


def test_pooling_keeps_every_image_and_every_class_that_any_site_has() -> None:
    one, two = site("a", 1, 3).train, site("b", 1, 3, n=2).train
    two.present[:] = [True, True, False]
    both = pool([one, two])
    assert (len(both), both.images.shape, both.ids[3]) == (5, (5, 1, 32, 32), "b0")
    assert both.present.tolist() == [True, True, True]
