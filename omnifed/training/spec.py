"""Settings of the one training loop. Needs no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from omnifed.config import Frozen


class TrainSpec(Frozen):
    """How a network is fitted, student or teacher.

    Attributes:
        steps: optimiser steps (of one federation round, for a student in a federation).
        total_steps: steps over which the schedule runs, all rounds together; 0 means ``steps``.
        first_step: where this call stands within ``total_steps`` (round r starts at r * steps).
        batch_size: images a step.
        lr, weight_decay, betas: AdamW.
        warmup: steps of linear warm-up at the start of the schedule.
        schedule: ``cosine`` to zero, ``poly`` with power 0.9, or ``constant``.
        grad_clip: largest gradient norm; 0 switches it off.
        validate_every: steps between validations; 0 validates only at the end of the call.
        patience: validations without a better Dice before the fit stops early; 0 never stops.
        augment: the paper's augmentation on the training images.
        precision: ``auto`` takes bf16 autocast and channels_last where this machine gains from them (measured once).
        seed: every random draw derives from (seed, step, case), never from a running state.
    """

    steps: int = Field(200, ge=1)
    total_steps: int = Field(0, ge=0)
    first_step: int = Field(0, ge=0)
    batch_size: int = Field(8, ge=1)
    lr: float = Field(3e-4, gt=0)
    weight_decay: float = Field(1e-2, ge=0)
    betas: tuple[float, float] = (0.9, 0.999)
    warmup: int = Field(0, ge=0)
    schedule: Literal["cosine", "poly", "constant"] = "cosine"
    grad_clip: float = Field(1.0, ge=0)
    validate_every: int = Field(0, ge=0)
    patience: int = Field(0, ge=0)
    augment: bool = True
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    seed: int = 0
