"""The families of students. A new one is its file and its line here."""

from __future__ import annotations

from torch import nn

from omnifed.models.base import SiteSpec
from omnifed.models.omnisegnet import OmniSegNet
from omnifed.models.spec import StudentSpec

FAMILIES = {"omnisegnet": OmniSegNet}


def build_student(spec: StudentSpec, site: SiteSpec, *, seed: int = 0) -> nn.Module:
    """Builds the network with fresh weights.

    The same seed gives the same weights, and each tensor is drawn from (seed, its key) alone: two sites with other
    channels or classes start from equal encoders and decoders. The global random state is neither read nor changed.

    Args:
        spec: the student.
        site: its channels, classes and dimensions.
        seed: of the weights.

    Returns:
        A module in training mode that is also a :class:`omnifed.models.base.Student`.

    Raises:
        OmniFedError: OF302 if the family cannot serve the site.
    """
    return FAMILIES[spec.family](spec, site, seed=seed)
