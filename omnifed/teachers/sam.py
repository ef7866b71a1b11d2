"""The teachers ``sam`` (a checkpoint of Meta's that the hospital brings) and ``sam-tiny`` (the embedded one)."""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path

import torch
from torch import Tensor

from omnifed.errors import OmniFedError
from omnifed.models.base import SiteSpec
from omnifed.states import read_state
from omnifed.teachers.checkpoints import sam_state
from omnifed.teachers.network import NetworkTeacher, seeded
from omnifed.teachers.sam_network import SHAPES, SamNetwork, fit_positions, token_grid
from omnifed.teachers.spec import TeacherSpec

TINY_SIZE = 192
"""Side at which sam-tiny sees an image by default: 12 x 12 tokens, logits of 48 x 48."""

HEADS = ("dermoscopy", "ct", "mri", "oct", "intraop", "brain-mri")
"""Modalities for which the embedded weights have a decoder head."""

_HEAD = ("mask_tokens.", "output_hypernetworks_mlps.")


def build_sam(
    spec: TeacherSpec, site: SiteSpec, image_size: tuple[int, int], seed: int, checkpoint_dir: Path | None
) -> NetworkTeacher:
    """Builds SAM from a local checkpoint.

    Class tokens and their hypernetworks start from ``seed``, as in SAMed: Meta's three tokens mean whole, part and
    sub-part, not classes. Everything else comes from the checkpoint.

    Raises:
        OmniFedError: OF320..OF322 for the checkpoint, OF323 if it holds another architecture.
    """
    size = spec.size or _window_size(max(image_size))
    state = sam_state(spec, checkpoint_dir)
    state = {key.removeprefix("prompt_encoder."): value for key, value in state.items()}
    return _build(spec, site, image_size, size, seed, spec.variant, _without_head(state))


def build_sam_tiny(spec: TeacherSpec, site: SiteSpec, image_size: tuple[int, int], seed: int) -> NetworkTeacher:
    """Builds the embedded teacher: SAM's transformers at 2.6 M parameters, behind a convolutional stem.

    Its weights were pre-trained on synthetic phantoms by ``omnifed-sim pretrain-teacher``. They are not Meta's and have
    never seen a medical image. Class tokens start from the head of the site's modality, class by class (background from
    background); classes beyond that head's repeat its foreground, and a modality without a head takes dermoscopy's.
    """
    with as_file(files("omnifed.teachers") / "weights" / "sam_tiny.safetensors") as path:
        arrays, _ = read_state(path)
    state = {key: torch.from_numpy(value).float() for key, value in arrays.items()}
    head = site.modality if site.modality in HEADS else HEADS[0]
    state = {**_body(state), **_classes(state, head, site.classes)}
    return _build(
        spec,
        site,
        image_size,
        spec.size or TINY_SIZE,
        seed,
        "tiny",
        state,
    )


def _build(
    spec: TeacherSpec,
    site: SiteSpec,
    image_size: tuple[int, int],
    size: int,
    seed: int,
    shape: str,
    state: dict[str, Tensor],
) -> NetworkTeacher:
    grid = token_grid(image_size, size)
    network = seeded(seed, lambda: SamNetwork(SHAPES[shape], site.classes, grid, spec.lora_rank))
    assert isinstance(network, SamNetwork)
    own = network.state_dict()
    state = {key: value for key, value in fit_positions(state, network).items() if key in own}
    wrong = [key for key, value in state.items() if own[key].shape != value.shape]
    missing = [key for key in own if key not in state and ".lora." not in key and not _is_head(key)]
    if wrong or missing:
        raise OmniFedError(
            "OF323",
            "A checkpoint must hold the architecture that the teacher's variant names.",
            seen=f"{shape}: {(wrong or missing)[0]} and {len(wrong) + len(missing) - 1} more",
            remedy="Name the variant that the file holds (vit_b, vit_l or vit_h), and Meta's original SAM, not SAM 2.",
        )
    network.load_state_dict(state, strict=False)
    about = {"kind": spec.kind, "shape": shape, "grid": grid, "channels": site.channels}
    return NetworkTeacher(network, network.feature_channels, spec.train, about)


def _window_size(longest: int) -> int:
    """224, 448 or 896: sides that fill SAM's windows of 14 tokens without padding."""
    return next((side for side in (224, 448) if longest <= side * 8 // 7), 896)


def _is_head(key: str) -> bool:
    return key.startswith(tuple(f"mask_decoder.{part}" for part in _HEAD))


def _without_head(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if not _is_head(key)}


def _body(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if not key.startswith("heads.")}


def _classes(state: dict[str, Tensor], head: str, classes: int) -> dict[str, Tensor]:
    """Token and hypernetwork of each class from a pre-trained head."""
    prefix = f"heads.{head}."
    tokens = state[f"{prefix}mask_tokens.weight"]
    rows = [k if k < len(tokens) else 1 + (k - 1) % (len(tokens) - 1) for k in range(classes)]
    mlps = f"{prefix}output_hypernetworks_mlps."
    found = {"mask_decoder.mask_tokens.weight": tokens[rows]}
    for new, row in enumerate(rows):
        for key, value in state.items():
            if key.startswith(f"{mlps}{row}."):
                found[f"mask_decoder.output_hypernetworks_mlps.{new}.{key.removeprefix(f'{mlps}{row}.')}"] = value
    return found
