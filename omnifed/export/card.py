"""What an exported model says of itself: enough to prepare an image for it and to name its labels. Needs no torch."""

from __future__ import annotations

from typing import Literal

from omnifed.config import Frozen
from omnifed.data.site import Modality, Normalisation
from omnifed.models.spec import StudentSpec

KEY = "omnifed"
"""Metadata key of the ONNX file under which the card stands, as JSON."""
NOTICE = "research use only, not a medical device"
INPUT, OUTPUT = "image", "logits"
"""Names of the graph's input (batch, channels, H, W) and output (batch, classes, H, W)."""
OPSET = 18
"""ONNX operator set of the exported graph: the lowest that the exporter writes without conversion."""


class ExportCard(Frozen):
    """The metadata of an exported student. Names no site.

    Attributes:
        format: version of this card.
        omnifed: version of the framework that exported.
        student: the network's spec.
        modality, labels, channels, image_size, normalisation: as in the site's ``site.toml``.
        opset: ONNX operator set.
        notice: what the model must not be taken for.
    """

    format: Literal[1] = 1
    omnifed: str
    student: StudentSpec
    modality: Modality
    labels: dict[int, str]
    channels: int
    image_size: tuple[int, int]
    normalisation: Normalisation
    opset: int = OPSET
    notice: str = NOTICE
