"""What a simulation and a deployed campaign declare alike. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator

from omnifed.config import Frozen
from omnifed.federation.wire import Wire
from omnifed.models.spec import StudentSpec
from omnifed.privacy.spec import AggregationSpec, DPSpec
from omnifed.search.spec import ArchitectureSpec, WeightSpec
from omnifed.teachers.spec import TeacherSpec
from omnifed.training.spec import TrainSpec

SEARCHES = ("architecture", "weights")
"""Tables of the searches, whose budgets may grow when a campaign goes on."""


class CampaignSettings(Frozen):
    """What is trained, and how the sites' work is put together.

    Attributes:
        rounds: of each arm.
        steps: optimiser steps of each site in each round, in every arm.
        student: a table, or the command line's form ``omnisegnet:compact,stem_stride=2``.
        teacher: a table, or its kind alone.
        batch_size, lr, weight_decay: of the student.
        distill: ``modality`` takes the published weights (Table 3) of each site's modality, ``universal`` their mean.
        distill_beta: weight of OmniKD against the supervised loss.
        prox_mu: of the arm ``fedprox``.
        weighting: how a site's cases weigh in the mean.
        wire: how weights travel, both ways: ``fp32``, ``bf16`` (half the bytes) or ``int8-delta`` (a quarter).
        quorum: up to 1 a share of the sites, above 1 a number of sites, that a round and a stage need.
        deadline_s: seconds a site may take for a task, virtual ones where sites are emulated. 0: a simulation waits, a
            coordinator goes by the rounds' measured times.
        aggregation: how updates are combined: a table, or the mode alone.
        dp: differential privacy of the sites' patients; none by default.
        architecture, weights: how to search; budgets may grow later.
        seed: everything derives from it.
    """

    rounds: int = Field(5, ge=1, le=9999)
    steps: int = Field(40, ge=1)
    student: StudentSpec = StudentSpec(alpha=0.62, beta=0.54, stem_stride=2)
    teacher: TeacherSpec = TeacherSpec()
    batch_size: int = Field(8, ge=1)
    lr: float = Field(2e-3, gt=0)
    weight_decay: float = Field(1e-2, ge=0)
    distill: Literal["modality", "universal"] = "modality"
    distill_beta: float = Field(0.3, ge=0)
    prox_mu: float = Field(0.01, ge=0)
    weighting: Literal["n", "sqrt", "equal"] = "sqrt"
    wire: Wire = "fp32"
    quorum: float = Field(0.5, gt=0)
    deadline_s: float = Field(0.0, ge=0)
    aggregation: AggregationSpec = AggregationSpec()
    dp: DPSpec | None = None
    architecture: ArchitectureSpec = ArchitectureSpec()
    weights: WeightSpec = WeightSpec()
    seed: int = Field(0, ge=0)

    @field_validator("student", mode="before")
    @classmethod
    def _student(cls, value: object) -> object:
        return StudentSpec.parse(value) if isinstance(value, str) else value

    @field_validator("teacher", mode="before")
    @classmethod
    def _teacher(cls, value: object) -> object:
        # What a table does not say is a teacher's default, not that of any fit: [teacher.train] alone must keep its lr.
        if isinstance(value, str):
            value = {"kind": value}
        if not isinstance(value, Mapping):
            return value
        base = TeacherSpec().model_dump()
        train = value.get("train", {})
        if not isinstance(train, Mapping):
            return value
        return {**base, **value, "train": {**base["train"], **train}}

    def train_spec(self, precision: Literal["auto", "fp32", "bf16"]) -> TrainSpec:
        """The fit of one round at one site; ``first_step`` is set by the coordinator."""
        total = self.rounds * self.steps
        return TrainSpec(
            steps=self.steps,
            total_steps=total,
            batch_size=self.batch_size,
            lr=self.lr,
            weight_decay=self.weight_decay,
            warmup=min(20, total // 10),
            precision=precision,
            seed=self.seed,
        )

    def lasting(self) -> dict[str, Any]:
        """What a campaign that goes on must keep: all but the searches' budgets."""
        values = self.model_dump(mode="json")
        for name in SEARCHES:
            del values[name]["budget"]
        return values
