from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from omnifed.data.augment import CONTROL, UPRIGHT, Augment, Draws, grid, jitter, warp

SIZE = (64, 48)


def still(n: int = 1) -> Draws:
    return Draws(
        torch.eye(2, 3).repeat(n, 1, 1), torch.zeros(n, 2, *CONTROL), torch.ones(n), torch.ones(n), torch.zeros(n)
    )


def smooth(size: tuple[int, int], n: int) -> Tensor:
    """n images of a slow wave: what they show does not depend on the number of pixels."""
    y = (torch.arange(size[0]) + 0.5) / size[0]
    x = (torch.arange(size[1]) + 0.5) / size[1]
    return (torch.sin(4 * y)[:, None] + torch.cos(3 * x)[None])[None, None].repeat(n, 1, 1, 1)


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=4))
def test_draws_depend_on_each_seed_alone(seeds: list[int]) -> None:
    augment = Augment("dermoscopy")
    together = augment.draw(seeds, SIZE)
    for i, seed in enumerate(seeds):
        alone = Augment("dermoscopy").draw([seed], SIZE)
        for name in vars(alone):
            assert torch.equal(getattr(together, name)[i], getattr(alone, name)[0])


def test_nothing_drawn_changes_nothing() -> None:
    image = torch.randn(1, 3, *SIZE)
    torch.testing.assert_close(warp(image, grid(still(), SIZE)), image, atol=1e-4, rtol=0)
    assert torch.equal(jitter(image, still()), image)


def test_a_mirror_is_exact() -> None:
    draws, image = still(), torch.randn(1, 1, 8, 8)
    draws.theta[0, 0, 0] = -1
    torch.testing.assert_close(warp(image, grid(draws, (8, 8))), image.flip(-1), atol=1e-5, rtol=0)


def test_the_same_deformation_on_every_grid() -> None:
    """The map of a teacher at a quarter of the size shows what the warped image, pooled, shows."""
    draws = Augment("dermoscopy").draw(range(16), (64, 64))
    assert draws.offset.any()
    large = warp(smooth((64, 64), 16), grid(draws, (64, 64)))
    small = warp(smooth((16, 16), 16), grid(draws, (16, 16)))
    inside = (grid(draws, (16, 16)).abs() < 0.9).all(-1)[:, None]
    apart = (F.avg_pool2d(large, 4) - small).abs()[inside]
    unwarped = (F.avg_pool2d(large, 4) - smooth((16, 16), 16)).abs()[inside]
    assert apart.mean() < 0.01 < 0.1 < unwarped.mean()


def test_rotation_keeps_shapes_in_an_oblong_image() -> None:
    """A centred disc on 64 x 128 pixels stays a disc of its size."""
    y, x = torch.meshgrid(torch.arange(64) - 31.5, torch.arange(128) - 63.5, indexing="ij")
    disc = ((y**2 + x**2) < 15**2).float()[None, None]
    augment = Augment("ct", flips=False)
    augment._affine.shear_range = ((0.0, 0.0), (0.0, 0.0))
    augment._affine.scale_range = ((0.0, 0.0), (0.0, 0.0))
    turned = 0
    for seed in range(12):
        draws = augment.draw([seed], (64, 128))
        draws.offset.zero_()
        turned += int(not torch.equal(draws.theta, still().theta))
        out = warp(disc, grid(draws, (64, 128)))[0, 0] > 0.5
        rows, columns = int(out.any(1).sum()), int(out.any(0).sum())
        assert abs(rows - 30) <= 2
        assert abs(columns - 30) <= 2
    assert turned > 2


def test_upright_modalities_are_mirrored_left_right_only_and_none_without_flips() -> None:
    seeds = list(range(60))
    free, upright, none = (
        Augment(modality, flips=flips).draw(seeds, (32, 32)).theta
        for modality, flips in (("dermoscopy", True), ("ct", True), ("dermoscopy", False))
    )
    assert "ct" in UPRIGHT
    assert (free[:, 0, 0] < 0).any()
    assert (free[:, 1, 1] < 0).any()
    assert (upright[:, 0, 0] < 0).any()
    assert not (upright[:, 1, 1] < 0).any()
    assert not (none[:, [0, 1], [0, 1]] < 0).any()


def test_ranges_and_shares() -> None:
    draws = Augment("dermoscopy", flips=False).draw(range(400), (32, 32))
    turned = (draws.theta != still().theta).flatten(1).any(1)
    assert 0.4 < float(turned.float().mean()) < 0.6
    assert 0.2 < float((draws.offset != 0).flatten(1).any(1).float().mean()) < 0.4
    assert float(draws.theta[:, :, 2].abs().max()) <= 0.1
    for values, low, high in ((draws.gamma, 0.7, 1.5), (draws.factor, 0.8, 1.2), (draws.shift, -0.2, 0.2)):
        assert float(values.min()) >= low - 1e-6
        assert float(values.max()) <= high + 1e-6
        assert values.std() > 0


def test_the_elastic_field_does_not_fold() -> None:
    draws = Augment("dermoscopy", flips=False).draw(range(100), (64, 64))
    where = grid(draws, (64, 64))
    assert float((where[:, :, 1:, 0] - where[:, :, :-1, 0]).min()) > 0
    assert float((where[:, 1:, :, 1] - where[:, :-1, :, 1]).min()) > 0


def test_jitter_by_hand() -> None:
    draws = still()
    draws.gamma[0], draws.factor[0], draws.shift[0] = 2.0, 0.5, 0.25
    image = torch.tensor([-1.0, 0.0, 1.0]).view(1, 1, 1, 3)
    # ((x + 1) / 2)^2 * 2 - 1 = -1, -0.5, 1; then * 0.5 + 0.25
    torch.testing.assert_close(jitter(image, draws), torch.tensor([-0.25, 0.0, 0.75]).view(1, 1, 1, 3))


def test_a_constant_image_stays_finite() -> None:
    draws = still()
    draws.gamma[0] = 0.7
    assert torch.isfinite(jitter(torch.full((1, 1, 4, 4), 3.0), draws)).all()


@pytest.mark.parametrize("mode", [True, False])
def test_no_new_label_appears(mode: bool) -> None:
    label = torch.from_numpy(np.random.default_rng(0).choice([0, 3, 255], (6, 1, 32, 32))).float()
    draws = Augment("dermoscopy", flips=mode).draw(range(6), (32, 32))
    assert set(warp(label, grid(draws, (32, 32)), nearest=True).unique().tolist()) <= {0.0, 3.0, 255.0}


def test_monai_is_loaded_without_what_is_not_used_here_and_others_may_still_load_it() -> None:
    code = (
        "import sys; from omnifed.data.augment import _hidden; "
        "print(sorted({'transformers', 'jsonschema'} & set(sys.modules)))\n"
        "with _hidden('wave', 'sys'):\n"
        "    try: import wave\n"
        "    except ImportError: print('hidden')\n"
        "import wave"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", "hidden"]
