"""What an exported model says of itself: enough to prepare an image for it and to name its labels. Needs no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from omnifed.config import Frozen
from omnifed.data.site import Modality, Normalisation
from omnifed.models.spec import StudentSpec

Precision = Literal["fp32", "bf16", "int8"]
View = Literal["resize", "window"]
KEY = "omnifed"
"""Metadata key of the ONNX file under which the card stands, as JSON."""
NOTICE = "research use only, not a medical device"
INPUT, OUTPUT = "image", "logits"
"""Names of the graph's input (batch, channels, H, W) and output (batch, classes, H, W)."""
Side = Annotated[int, Field(ge=1, le=4096)]
"""Pixels; memory grows with their square, and a model's file decides them."""
OPSET = 18
"""ONNX operator set of the exported graph: the lowest that the exporter writes without conversion."""


class ExportCard(Frozen):
    """The metadata of an exported student. Names no site.

    Attributes:
        format: version of this card; 1 had no ``slice_axis``, ``view``, ``precision`` and ``engine``.
        omnifed: version of the framework that exported.
        student: the network's spec.
        modality, labels, channels, image_size, normalisation: as in the site's ``site.toml``.
        slice_axis: anatomical axis along which volumes were sliced, as in ``site.toml``.
        view: how an image of another size is brought to ``image_size``: ``resize`` as in training, or ``window``: tiles
            of ``image_size`` at native resolution, for a network that was trained on crops.
        precision: of the weights and the arithmetic. ``bf16`` is float32 weights that the engine is told to compute in
            bfloat16; ``int8`` holds QDQ nodes.
        engine: what runs it fastest where it was exported; ``any`` leaves it to the user.
        opset: ONNX operator set.
        notice: what the model must not be taken for.
    """

    format: Literal[1, 2] = 2
    omnifed: str
    student: StudentSpec
    modality: Modality
    labels: dict[int, str] = Field(min_length=2, max_length=256)
    channels: int = Field(ge=1, le=64)
    image_size: tuple[Side, Side]
    normalisation: Normalisation
    slice_axis: Literal[0, 1, 2] = 2
    view: View = "resize"
    precision: Precision = "fp32"
    engine: Literal["any", "ort", "openvino"] = "any"
    opset: int = OPSET
    notice: str = NOTICE

    @field_validator("labels")
    @classmethod
    def _printable(cls, labels: dict[int, str]) -> dict[int, str]:
        # Names are printed: one with escape codes would write to the user's terminal what it likes.
        if not all(name.isprintable() and len(name) <= 200 for name in labels.values()):
            raise ValueError("names of labels are printable, of at most 200 characters")
        return labels
