import hashlib
import json
from importlib.resources import files

import numpy as np
import pytest
import torch

from omnifed.models.base import SiteSpec
from omnifed.states import read_state
from omnifed.teachers.network import NetworkTeacher
from omnifed.teachers.registry import build_teacher
from omnifed.teachers.sam import HEADS, TINY_SIZE, _window_size
from omnifed.teachers.spec import TeacherSpec

WEIGHTS = files("omnifed.teachers") / "weights"


def tokens(modality: str, classes: int) -> torch.Tensor:
    teacher = build_teacher(TeacherSpec(), SiteSpec(1, classes, modality=modality), image_size=(64, 64))
    assert isinstance(teacher, NetworkTeacher)
    return teacher.network.state_dict()["mask_decoder.mask_tokens.weight"]


def shipped(name: str) -> torch.Tensor:
    arrays, _ = read_state(WEIGHTS / "sam_tiny.safetensors")  # type: ignore[arg-type]
    return torch.from_numpy(arrays[name].astype(np.float32))


def test_the_embedded_weights_are_small_and_honestly_named() -> None:
    content = (WEIGHTS / "sam_tiny.safetensors").read_bytes()
    card = json.loads((WEIGHTS / "sam_tiny.json").read_text())
    assert len(content) <= 10_000_000
    assert card["sha256"] == hashlib.sha256(content).hexdigest()
    assert "synthetic phantoms only" in card["about"]
    assert "none of Meta's weights" in card["about"]
    assert card["seen_at_pixels"] == TINY_SIZE


@pytest.mark.parametrize("modality", HEADS)
def test_classes_start_from_the_head_of_the_modality(modality: str) -> None:
    head = shipped(f"heads.{modality}.mask_tokens.weight")
    assert torch.equal(tokens(modality, len(head)), head)


def test_more_classes_than_the_head_repeat_its_foreground() -> None:
    head = shipped("heads.mri.mask_tokens.weight")
    assert len(head) == 5
    assert torch.equal(tokens("mri", 7), head[[0, 1, 2, 3, 4, 1, 2]])


def test_a_modality_without_a_head_takes_dermoscopys() -> None:
    head = shipped("heads.dermoscopy.mask_tokens.weight")
    assert torch.equal(tokens("microscopy", 3), head[[0, 1, 1]])


def test_hypernetworks_follow_their_tokens() -> None:
    teacher = build_teacher(TeacherSpec(), SiteSpec(1, 7, modality="mri"), image_size=(64, 64))
    assert isinstance(teacher, NetworkTeacher)
    state = teacher.network.state_dict()
    for new, old in enumerate([0, 1, 2, 3, 4, 1, 2]):
        expected = shipped(f"heads.mri.output_hypernetworks_mlps.{old}.layers.2.weight")
        assert torch.equal(state[f"mask_decoder.output_hypernetworks_mlps.{new}.layers.2.weight"], expected)


@pytest.mark.parametrize(("longest", "side"), [(128, 224), (256, 224), (384, 448), (512, 448), (1024, 896)])
def test_sam_sees_images_at_sides_that_fill_its_windows(longest: int, side: int) -> None:
    assert _window_size(longest) == side
