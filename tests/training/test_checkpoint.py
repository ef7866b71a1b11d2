from __future__ import annotations

from dataclasses import replace

import torch
from discs import TinyNet, make_discs

from omnifed.training.checkpoint import copy_state, fingerprint, restore, trained_state
from omnifed.training.spec import TrainSpec


def test_a_fit_is_known_by_settings_images_masks_and_weights() -> None:
    data, start = make_discs(3), trained_state(TinyNet())
    relabelled = data.masks.copy()
    relabelled[0, 0, 0] = 1
    marks = {
        fingerprint(TrainSpec(), data, start),
        fingerprint(TrainSpec(seed=1), data, start),
        fingerprint(TrainSpec(), make_discs(3, seed=1), start),
        fingerprint(TrainSpec(), replace(data, masks=relabelled), start),
        fingerprint(TrainSpec(), data, trained_state(TinyNet(seed=1))),
    }
    assert len(marks) == 5
    assert fingerprint(TrainSpec(), make_discs(3), trained_state(TinyNet())) in marks


def test_only_what_a_fit_changes_is_kept() -> None:
    net = TinyNet()
    net.body.requires_grad_(False)
    kept = trained_state(net)
    assert "body.0.weight" not in kept
    assert {"head.weight", "body.1.running_mean", "body.1.num_batches_tracked"} < set(kept)


def test_restore_writes_into_the_model_whatever_its_layout() -> None:
    net, other = TinyNet(), TinyNet(seed=1)
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    restore(trained_state(net), copy_state(trained_state(other)))
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in net.state_dict().items())
