"""Pre-trains the embedded teacher ``sam-tiny`` on endless phantoms: the recipe behind the weights in the repository.

Encoder, decoder transformer and upscaling are shared by all modalities; each modality has its own class tokens and
hypernetworks, so that the decoder never sees another modality's classes, as at a site. Phantoms are drawn from streams
whose seeds no preset uses. The result has seen synthetic images only: no medical image, and nothing of Meta's weights.
"""

from __future__ import annotations

import hashlib
import platform
import time
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from omnifed.data.normalise import normalise
from omnifed.data.prepared import Prepared
from omnifed.files import write_json
from omnifed.models.base import SiteSpec
from omnifed.progress import Progress
from omnifed.states import StateFile, write_state
from omnifed.teachers.checkpoints import as_float16
from omnifed.teachers.network import seeded
from omnifed.teachers.sam import HEADS, TINY_SIZE
from omnifed.teachers.sam_network import SHAPES, SamNetwork, mask_decoder, token_grid
from omnifed.training.batch import Batch
from omnifed.training.loop import fit
from omnifed.training.objectives import teacher_objective
from omnifed.training.spec import TrainSpec
from omnifed_sim.phantoms import PHANTOMS, Phantom, endless

ABOUT = (
    "SAM's image encoder and mask decoder (package segment-anything) at 2.6 million parameters, behind a convolutional "
    "stem, pre-trained on synthetic phantoms only. It has seen no medical image and holds none of Meta's weights. For "
    "research, tests and demonstrations."
)

STEPS = 1000
"""Steps behind the weights in the repository."""

PER_MODALITY = 2
"""Images of each modality a step."""

IMAGE = 128
"""Side of the phantoms in pixels, that of the presets."""

_STREAMS = 10_000_000
"""Streams set aside for each seed: one a step."""

_VALIDATION = 1_000_003
"""Seed of the phantoms that the progress is measured on."""


class Pretrained(nn.Module):
    """The shared trunk and one decoder head a modality.

    Attributes:
        trunk: encoder, embeddings and the first modality's decoder.
        decoders: one a modality; transformer, upscaling and the first token are the same objects in all of them.
    """

    def __init__(self) -> None:
        super().__init__()
        shape, modalities = SHAPES["tiny"], _by_modality()
        grid = token_grid((IMAGE, IMAGE), TINY_SIZE)
        self.decoders = nn.ModuleDict({name: mask_decoder(shape, len(p.labels)) for name, p in modalities.items()})
        self.trunk = SamNetwork(shape, 2, grid, lora_rank=-1)
        nn.init.trunc_normal_(self.trunk.image_encoder.pos_embed, std=0.02)
        first = self.decoders[HEADS[0]]
        self.trunk.mask_decoder = first
        for decoder in self.decoders.values():
            decoder.transformer = first.transformer
            decoder.output_upscaling = first.output_upscaling
            decoder.iou_token = first.iou_token

    def forward(self, x: Tensor) -> list[Tensor]:
        """Images in equal blocks, one a modality in the order of ``HEADS``, to each modality's logits."""
        features, early = self.trunk.encode(x)
        assert early is not None
        return [
            self.trunk.decode(feature, fine, self.decoders[name])
            for feature, fine, name in zip(features.chunk(len(HEADS)), early.chunk(len(HEADS)), HEADS, strict=True)
        ]

    def weights(self) -> dict[str, Tensor]:
        """The state as :func:`omnifed.teachers.sam.build_sam_tiny` reads it: the trunk, and the heads by modality."""
        head = ("mask_decoder.mask_tokens.", "mask_decoder.output_hypernetworks_mlps.")
        state = {key: value for key, value in self.trunk.state_dict().items() if not key.startswith(head)}
        for name, decoder in self.decoders.items():
            for key, value in decoder.state_dict().items():
                if f"mask_decoder.{key}".startswith(head):
                    state[f"heads.{name}.{key}"] = value
        return state


class PhantomBatches:
    """Batches of phantoms that are never repeated; step s is a pure function of (seed, s).

    Args:
        seed: of the streams.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def batch(self, step: int, per_modality: int = PER_MODALITY) -> Batch:
        """Equal blocks of images, one a modality in the order of ``HEADS``, with the labels of each."""
        pairs = [pair for name in HEADS for pair in phantoms(name, self.seed * _STREAMS + step, per_modality)]
        images, labels = zip(*pairs, strict=True)
        return Batch(
            image=torch.from_numpy(np.stack(images)),
            label=torch.from_numpy(np.stack(labels)).long(),
            has_label=torch.ones(len(pairs), dtype=torch.bool),
            present=torch.ones(1, dtype=torch.bool),
            index=torch.arange(len(pairs)),
        )


def phantoms(modality: str, stream: int, count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """``count`` images (3, H, W) float32, normalised as a site of this modality would, and masks (H, W)."""
    phantom = _by_modality()[modality]
    drawn = islice(endless(phantom.name, stream, IMAGE), count)
    pairs = []
    for image, mask in drawn:
        native = image.round().astype(np.uint8) if phantom.channels == 3 else image
        pairs.append((normalise([native], phantom.normalisation, 3)[0], mask))
    return pairs


def pretrain(out: Path, *, steps: int = STEPS, seed: int = 0, progress: Progress | None = None) -> dict[str, float]:
    """Runs the recipe: AdamW, cosine, 0.2 cross entropy + 0.8 Dice within each modality's own classes.

    Killed and called again with the same arguments it goes on where it was. About 0.6 s a step on one core.

    Args:
        out: the safetensors file to write (float16, about 6 MB); a card of the same name with .json lies beside it.
        steps: optimiser steps, each with two phantoms of each of the six modalities.
        seed: of weights and phantoms.
        progress: told about each step: loss and the last validation Dice.

    Returns:
        Dice by modality (0..1, foreground mean over phantoms of an unseen stream) and ``mean``.
    """
    spec = TrainSpec(
        steps=steps,
        batch_size=PER_MODALITY * len(HEADS),
        lr=1e-3,
        weight_decay=0.05,
        warmup=min(100, steps // 10),
        schedule="cosine",
        validate_every=max(1, steps // 10),
        augment=False,
        seed=seed,
    )
    model = seeded(seed, Pretrained)
    assert isinstance(model, Pretrained)
    loss = teacher_objective()
    seen = PhantomBatches(_VALIDATION).batch(0, 8)

    def objective(module: nn.Module, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        found = [loss.of_logits(logits, part) for logits, part in zip(module(batch.image), blocks(batch), strict=True)]
        parts = {f"loss_{name}": total.detach() for name, (total, _) in zip(HEADS, found, strict=True)}
        return torch.stack([total for total, _ in found]).mean(), parts

    started = time.perf_counter()
    result = fit(
        model,
        _nothing(seed),
        None,
        spec,
        objective,
        batches=PhantomBatches(seed),
        checkpoint=StateFile(out.with_suffix(".ckpt")),
        progress=progress,
        validate=lambda module: float(np.mean(list(dice_by_modality(module, seen).values()))),
    )
    scores = dice_by_modality(model, seen)
    scores["mean"] = float(np.mean(list(scores.values())))
    write_state(out, as_float16(model.weights()), {"about": ABOUT, "seed": seed, "steps": steps}, mode=0o644)
    write_json(
        out.with_suffix(".json"),
        {
            "name": "sam-tiny",
            "about": ABOUT,
            "recipe": f"omnifed-sim pretrain-teacher --steps {steps} --seed {seed}",
            "data": f"{steps * spec.batch_size} phantoms of {IMAGE} x {IMAGE} pixels, none twice: {', '.join(HEADS)}",
            "seen_at_pixels": TINY_SIZE,
            "train": spec.model_dump(),
            "dice_on_unseen_phantoms": {name: round(value, 4) for name, value in scores.items()},
            "precision": str(result.precision),
            "minutes": round((time.perf_counter() - started) / 60, 1),
            "torch": torch.__version__,
            "machine": platform.machine(),
            "bytes": out.stat().st_size,
            "sha256": hashlib.sha256(out.read_bytes()).hexdigest(),
        },
    )
    return scores


def blocks(batch: Batch) -> list[Batch]:
    """The batch of each modality, with all of its classes present."""
    count = len(batch.image) // len(HEADS)
    parts = []
    for place, name in enumerate(HEADS):
        rows = slice(place * count, (place + 1) * count)
        present = torch.ones(len(_by_modality()[name].labels), dtype=torch.bool)
        parts.append(Batch(batch.image[rows], batch.label[rows], batch.has_label[rows], present, batch.index[rows]))
    return parts


def dice_by_modality(model: nn.Module, batch: Batch) -> dict[str, float]:
    """Foreground Dice of each modality (0..1): mean over images and over classes in truth or prediction."""
    model.eval()
    with torch.no_grad():
        found = [
            functional.interpolate(logits.float(), batch.label.shape[-2:], mode="bilinear").argmax(1)
            for logits in model(batch.image)
        ]
    scores = {}
    for name, predicted, part in zip(HEADS, found, blocks(batch), strict=True):
        values = []
        for k in range(1, len(part.present)):
            a, b = predicted == k, part.label == k
            both, either = (a & b).sum((1, 2)), a.sum((1, 2)) + b.sum((1, 2))
            values += (2 * both / either)[either > 0].tolist()
        scores[name] = float(np.mean(values))
    return scores


def _by_modality() -> dict[str, Phantom]:
    return {phantom.modality: phantom for phantom in PHANTOMS.values()}


def _nothing(seed: int) -> Prepared:
    """A split without images: the loop asks for one to name the fit; the images come from :class:`PhantomBatches`."""
    none = np.zeros(0)
    return Prepared(
        SiteSpec(3, 2), none, none, np.zeros(0, bool), (), (), (f"phantoms {seed}",), none, np.ones(2, bool)
    )
