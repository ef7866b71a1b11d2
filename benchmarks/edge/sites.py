"""Sites of one training, their labels side by side: background, then each site's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from edge.networks import CHANNELS
from torch import Tensor, nn

from omnifed.data.prepare import SiteData, prepare
from omnifed.data.prepared import Prepared
from omnifed.data.site import SiteConfig
from omnifed.data.site_folder import Site, load_site
from omnifed.evaluation.metrics import dice_by_case
from omnifed.evaluation.predict import predict_masks
from omnifed.files import write_atomic
from omnifed.models.base import Out
from omnifed.training.batch import Batch
from omnifed.training.batches import Batches
from omnifed.training.losses import segmentation_loss
from omnifed.training.spec import TrainSpec

SALT = b"omnifed benchmark"
"""One salt for all runs, so that a patient has one key in all of them."""


@dataclass(frozen=True)
class Part:
    """A site's share of the network.

    Attributes:
        data: its splits.
        classes: channels of the logits that are its label ids in order; the first is the background, 0.
    """

    data: SiteData
    classes: tuple[int, ...]

    @property
    def name(self) -> str:
        return self.data.config.name


def load_parts(data: Path, names: Sequence[str], out: Path, *, side: int, seed: int) -> list[Part]:
    """Prepares the sites for a seed, which also draws the split by patient; what is prepared already is reused.

    Args:
        data: folder of site folders.
        names: of the folders.
        out: folder for prepared data.
        side: of the square image in pixels, a multiple of 32.
        seed: of the splits.

    Raises:
        OmniFedError: as :func:`omnifed.data.prepare.prepare`.
    """
    parts: list[Part] = []
    first = 1
    for name in names:
        site = load_site(data / name)
        splits = site.config.splits.model_copy(update={"seed": seed})
        folder = out / name
        if not (folder / ".salt").is_file():
            write_atomic(folder / ".salt", SALT)
        config: SiteConfig = site.config.model_copy(update={"splits": splits})
        prepared = prepare(Site(config, site.root, site.rows), folder, image_size=(side, side))
        own = len(config.labels) - 1
        parts.append(Part(prepared, (0, *range(first, first + own))))
        first += own
    return parts


def classes_of(parts: Sequence[Part]) -> int:
    """Channels of the logits: the background and every site's own labels."""
    return 1 + sum(len(part.classes) - 1 for part in parts)


class Mixed:
    """Batches that take equally from each site, in the sites' order; labels stay each site's own ids.

    Args:
        parts: n sites.
        spec: its batch size is a multiple of n.
    """

    def __init__(self, parts: Sequence[Part], spec: TrainSpec) -> None:
        share, rest = divmod(spec.batch_size, len(parts))
        if rest or not share:
            raise ValueError(f"batch size {spec.batch_size} is no multiple of {len(parts)} sites")
        own = spec.model_copy(update={"batch_size": share})
        self.sources = [Batches(part.data.need("train"), own, labelled_only=True) for part in parts]

    def batch(self, step: int) -> Batch:
        """The batch of a step; ``present`` is not that of all its rows: see :class:`BySite`."""
        batches = [source.batch(step) for source in self.sources]
        return Batch(
            image=torch.cat([colour(batch.image) for batch in batches]),
            label=torch.cat([batch.label for batch in batches]),
            has_label=torch.cat([batch.has_label for batch in batches]),
            present=torch.cat([batch.present for batch in batches]),
            index=torch.cat([batch.index for batch in batches]),
        )


class BySite:
    """Cross entropy + soft Dice of each site over background and its own labels, averaged over the sites."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self.classes = [list(part.classes) for part in parts]

    def __call__(self, model: nn.Module, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of a batch of :class:`Mixed`."""
        n = len(self.classes)
        logits = model(batch.image).logits
        presents = batch.present.split([len(own) for own in self.classes])
        rows = zip(self.classes, logits.chunk(n), batch.label.chunk(n), batch.has_label.chunk(n), presents, strict=True)
        losses, parts = zip(
            *(segmentation_loss(z[:, own], y, has, there) for own, z, y, has, there in rows), strict=True
        )
        return torch.stack(losses).mean(), {k: torch.stack([p[k] for p in parts]).mean() for k in ("ce", "dice")}


def colour(image: Tensor) -> Tensor:
    """Images (B, 1 or 3, H, W) with three channels: grey is repeated."""
    return image.expand(-1, CHANNELS, -1, -1)


def restricted(model: Callable[[Tensor], Out], part: Part) -> Callable[[Tensor], Out]:
    """The network with the logits of one site, for grey images too."""
    own = list(part.classes)
    return lambda x: Out(model(colour(x)).logits[:, own])


def case_rows(model: Callable[[Tensor], Out], parts: Sequence[Part], split: str) -> list[dict[str, object]]:
    """Dice of each case and label of a split; a label in neither truth nor prediction has no row.

    Args:
        model: images (B, 3, H, W) to logits of all classes; a module is in evaluation mode.
        parts: the sites.
        split: ``val`` or ``test``.
    """
    rows: list[dict[str, object]] = []
    for part in parts:
        held: Prepared = part.data.need(split)
        dice = dice_by_case(predict_masks(restricted(model, part), held), held)
        for case, patient, values in zip(held.ids, held.patients, dice, strict=True):
            about = {"site": part.name, "split": split, "case": case, "patient": patient}
            labels = list(part.data.config.labels.values())[1:]
            rows += [
                about | {"label": label, "dice": round(float(value), 6)}
                for label, value in zip(labels, values, strict=True)
                if value == value
            ]
    return rows
