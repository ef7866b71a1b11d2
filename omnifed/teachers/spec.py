"""How a teacher is named in configurations and tasks. Needs no torch."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, model_validator

from omnifed.config import Frozen
from omnifed.training.spec import TrainSpec


class TeacherSpec(Frozen):
    """A teacher and how it is fine-tuned at the site.

    Attributes:
        kind: ``sam`` (a local checkpoint), ``sam-tiny`` (the embedded one), ``cnn`` (an accurate OmniSegNet trained
            longer) or ``onnx`` (any exported model; only the terms that it can feed are used).
        variant: backbone of ``sam``.
        checkpoint: path at the site, for ``sam`` and ``onnx``; a task never carries it over the network.
        sha256: expected hash of the checkpoint.
        public: whoever writes this promises that the checkpoint was made without these patients; only such a teacher
            may teach under differential privacy. Kind ``onnx`` alone, as it is not fine-tuned, with its ``sha256``.
            Nothing is chosen by the training images then: view 0 alone is taught, and nothing is mirrored.
        size: side in pixels at which the teacher sees the image; 0 takes the kind's default.
        lora_rank: rank of the LoRA matrices on q and v of SAM's image encoder; 0 freezes the encoder,
            -1 trains the whole of it (sensible for ``sam-tiny`` only).
        views: deterministic geometric views a training image in the cache.
        train: the fit; the default suits ``sam-tiny`` and some dozens of images. SAMed trains ``sam`` far longer, with
            lr 5e-3 and 250 steps of warm-up.
    """

    kind: Literal["sam", "sam-tiny", "cnn", "onnx"] = "sam-tiny"
    variant: Literal["vit_b", "vit_l", "vit_h"] = "vit_b"
    checkpoint: str = ""
    sha256: str = ""
    public: bool = False
    size: int = Field(0, ge=0, le=1024)
    lora_rank: int = Field(4, ge=-1, le=64)
    views: int = Field(2, ge=1, le=16)
    train: TrainSpec = TrainSpec(steps=80, lr=2e-3, weight_decay=0.1, warmup=10, schedule="poly", validate_every=20)

    @model_validator(mode="after")
    def _public(self) -> TeacherSpec:
        if self.public and (self.kind != "onnx" or not re.fullmatch(r"[0-9A-Fa-f]{64}", self.sha256)):
            raise ValueError("a public teacher is an exported model with a hash: kind = onnx and its sha256")
        return self
