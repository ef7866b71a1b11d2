"""What every student is: a network that a site trains and the federation averages."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self

from torch import Tensor, nn

from omnifed.models.base import LayerGroup, Out, SiteSpec
from omnifed.models.fold import fold
from omnifed.models.spec import StudentSpec


class Student(nn.Module, ABC):
    """Base of the families in :mod:`omnifed.models.registry`.

    Attributes:
        spec: scaling and options.
        site: channels, classes and dimensions.
    """

    spec: StudentSpec
    site: SiteSpec

    @property
    @abstractmethod
    def feature_channels(self) -> dict[str, int]:
        """Channels of each tap in ``Out.features``."""

    @property
    @abstractmethod
    def architecture_key(self) -> str:
        """Equal for two networks if and only if they have the same shapes and options."""

    @abstractmethod
    def forward(self, x: Tensor, condition: Tensor | None = None) -> Out:
        """Image (B, channels, *S) to :class:`omnifed.models.base.Out` with logits (B, classes, *S)."""

    def folded(self) -> Self:
        """An equal network for inference, without batch norms and branches, see :func:`omnifed.models.fold.fold`."""
        return fold(self)

    @abstractmethod
    def layer_groups(self) -> dict[str, LayerGroup]:
        """Every key of ``state_dict()`` to its group; affine and statistics of any norm are ``"norm"``."""
