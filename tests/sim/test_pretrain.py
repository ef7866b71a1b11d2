import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from omnifed.states import read_state
from omnifed.teachers.sam import HEADS
from omnifed_sim import pretrain as module
from omnifed_sim.phantoms import PHANTOMS
from omnifed_sim.pretrain import PhantomBatches, Pretrained, blocks, dice_by_modality, pretrain

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IMAGE", 48)
    monkeypatch.setattr(module, "TINY_SIZE", 64)


def test_every_phantom_has_a_head() -> None:
    assert sorted(HEADS) == sorted(phantom.modality for phantom in PHANTOMS.values())


def test_a_batch_is_a_pure_function_of_seed_and_step() -> None:
    one, again = PhantomBatches(3).batch(5), PhantomBatches(3).batch(5)
    assert torch.equal(one.image, again.image)
    assert torch.equal(one.label, again.label)
    assert not torch.equal(one.image, PhantomBatches(3).batch(6).image)
    assert not torch.equal(one.image, PhantomBatches(4).batch(5).image)
    assert one.image.shape == (2 * len(HEADS), 3, 48, 48)
    assert torch.isfinite(one.image).all()


def test_blocks_hold_the_labels_of_their_modality() -> None:
    for name, part in zip(HEADS, blocks(PhantomBatches(0).batch(0, 3)), strict=True):
        phantom = module._by_modality()[name]
        assert len(part.image) == 3
        assert part.label.max() < len(part.present) == len(phantom.labels)


def test_all_modalities_share_one_trunk() -> None:
    model = Pretrained()
    one, other = model.decoders["ct"], model.decoders["mri"]
    assert one.transformer is other.transformer
    assert one.mask_tokens is not other.mask_tokens
    assert {name for name, _ in model.named_parameters()} >= {"trunk.image_encoder.pos_embed"}


def test_dice_of_a_model_that_knows_the_answer_is_one() -> None:
    batch = PhantomBatches(0).batch(0, 2)

    class Oracle(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
            parts = blocks(batch)
            return [torch.nn.functional.one_hot(p.label, len(p.present)).permute(0, 3, 1, 2).float() for p in parts]

    assert dice_by_modality(Oracle(), batch) == dict.fromkeys(HEADS, 1.0)


def test_the_recipe_learns_is_reproducible_and_says_what_it_is(tmp_path: Path) -> None:
    told: list[str] = []
    scores = pretrain(tmp_path / "a.safetensors", steps=2, seed=1, progress=lambda *step: told.append(step[2]))
    pretrain(tmp_path / "b.safetensors", steps=2, seed=1)
    content = (tmp_path / "a.safetensors").read_bytes()
    assert content == (tmp_path / "b.safetensors").read_bytes()
    assert len(content) < 10_000_000
    card = json.loads((tmp_path / "a.json").read_text())
    assert card["sha256"] == hashlib.sha256(content).hexdigest()
    assert card["dice_on_unseen_phantoms"].keys() == {*HEADS, "mean"} == scores.keys()
    assert "--steps 2 --seed 1" in card["recipe"]
    assert len(told) == 2
    assert "loss" in told[0]
    arrays, _ = read_state(tmp_path / "a.safetensors")
    assert all(value.dtype == np.float16 for value in arrays.values())
    assert arrays["image_encoder.pos_embed"].shape == (1, 4, 4, 192)
    fresh = module.seeded(1, Pretrained).weights()  # type: ignore[operator]
    assert arrays.keys() == fresh.keys()
    assert not np.array_equal(arrays["image_encoder.pos_embed"], fresh["image_encoder.pos_embed"].half().numpy())
