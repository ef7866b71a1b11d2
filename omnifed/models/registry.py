"""The families of students. A new one is its file and its line here."""

from __future__ import annotations

from omnifed.models.base import SiteSpec
from omnifed.models.omnisegnet import OmniSegNet
from omnifed.models.spec import StudentSpec
from omnifed.models.student import Student

FAMILIES: dict[str, type[OmniSegNet]] = {"omnisegnet": OmniSegNet}


def build_student(spec: StudentSpec, site: SiteSpec, *, seed: int = 0) -> Student:
    """Builds the network with fresh weights.

    The same seed gives the same weights, and each tensor is drawn from (seed, its key) alone: two sites with other
    channels or classes start from equal encoders and decoders. The global random state is neither read nor changed.

    Args:
        spec: the student.
        site: its channels, classes and dimensions.
        seed: of the weights.

    Returns:
        The student, in training mode.

    Raises:
        OmniFedError: OF302 if the family cannot serve the site.
    """
    return FAMILIES[spec.family](spec, site, seed=seed)
