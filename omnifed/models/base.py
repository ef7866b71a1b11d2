"""What every network of the framework returns, and what it must know of a site. Needs no torch.

Students and teachers return the same :class:`Out`, so that a distillation term never asks who made it. ``SiteSpec``
leaves room for 3D volumes (``dimensions``) and ``forward`` for a condition (the slice position of 2.5D students).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

BOTTLENECK = "bottleneck"
"""Name of the tap that OmniKD reads: the map after the context module (ASPP), the encoder's output of a teacher."""

LayerGroup = Literal["stem", "encoder", "context", "decoder", "head", "norm"]
Side = Literal["global", "local"]


@dataclass
class Out:
    """Output of a student or a teacher.

    Attributes:
        logits: shape (B, classes, *S), before softmax; a teacher's may be smaller than the image.
        features: maps by tap name, each (B, channels, *S_tap).
        aux: auxiliary outputs by name (boundary, presence, deep supervision).
    """

    logits: Tensor
    features: dict[str, Tensor] = field(default_factory=dict)
    aux: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class SiteSpec:
    """What a network must know of a site.

    Attributes:
        channels: input channels (1 or 3 today).
        classes: number of classes, background (0) included.
        dimensions: 2 or 3 spatial axes.
        modality: the site's modality, one of :data:`omnifed.data.site.Modality`.
    """

    channels: int
    classes: int
    dimensions: int = 2
    modality: str = ""


def partition(groups: Mapping[str, LayerGroup], local: Iterable[LayerGroup]) -> dict[str, Side]:
    """Says for each state key whether it is averaged (``global``) or never leaves the site (``local``).

    Args:
        groups: result of :meth:`omnifed.models.student.Student.layer_groups`.
        local: groups that stay at the site; FedBN keeps ``norm`` (Li et al., ICLR 2021).
    """
    kept = set(local)
    return {key: "local" if group in kept else "global" for key, group in groups.items()}
