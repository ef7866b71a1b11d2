"""What `omnifed-sim` is asked to do: one frozen model, written to RUN/config.json."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from omnifed.config import Frozen
from omnifed.federation.wire import Wire
from omnifed.models.spec import StudentSpec
from omnifed.privacy.rules import check_dp
from omnifed.privacy.spec import AggregationSpec, DPSpec
from omnifed.search.spec import ArchitectureSpec, WeightSpec
from omnifed.teachers.spec import TeacherSpec
from omnifed.training.spec import TrainSpec

Arm = Literal["local", "fedavg", "fedprox", "fedbn", "omnikd", "central"]
Precision = Literal["auto", "fp32", "bf16"]
ARMS: dict[Arm, str] = {
    "local": "each site alone",
    "fedavg": "the whole student averaged (McMahan et al., AISTATS 2017)",
    "fedprox": "FedAvg with a proximal term (Li et al., MLSys 2020)",
    "fedbn": "FedAvg with norms kept at the site (Li et al., ICLR 2021)",
    "omnikd": "FedBN, each site distilling its own teacher with OmniKD",
    "central": "all images in one place: the ceiling that hospitals may not have",
}


class SimConfig(Frozen):
    """One comparison of arms over the same sites, splits, steps and seeds.

    Attributes:
        preset: phantom sites to make; ignored where ``data`` is given.
        phantom_scale: size of the phantom sites relative to the preset.
        data: folder whose sub-folders are sites; empty takes the preset.
        sites: names to take, all if empty.
        split: ``SITE:K`` cuts that site by patient into K hospitals, which replace it.
        skew: how these hospitals differ.
        hold_out: sites that never train; the shared model is tested there.
        search: searches before the arms, none by default; what they find is what the arms train.
        architecture, weights: their settings; their budgets may grow when a run is resumed.
        arms: what to compare, in this order; may be empty where there is a search.
        rounds: rounds of the federation.
        steps: optimiser steps of each site in each round, in every arm.
        student, teacher: see their specifications.
        image_size: side in pixels; 0 keeps each site's own.
        batch_size, lr, weight_decay: of the student.
        distill: ``modality`` takes Table 3's weights of each site's modality, ``universal`` their mean.
        distill_beta: weight of OmniKD against the supervised loss.
        prox_mu: of the arm ``fedprox``.
        weighting: how a site's cases weigh in the mean.
        quorum: share of the sites that must answer a round.
        deadline_s: seconds a site may take for a task (virtual ones where sites are emulated); 0 waits.
        wire: how weights travel, both ways: ``fp32``, ``bf16`` (half the bytes) or ``int8-delta`` (a quarter).
        aggregation: how updates are combined: a table, or the mode alone.
        dp: differential privacy of the sites' patients, in every arm but ``central``; none by default.
        emulate: TOML file of site speeds, bandwidths and drop-outs.
        backend: ``inprocess``, or ``ray`` for several processes or machines.
        seed: everything derives from it.
    """

    preset: Literal["modalities", "hospitals"] = "modalities"
    phantom_scale: float = Field(1.0, gt=0, le=20)
    data: str = ""
    sites: tuple[str, ...] = ()
    split: str = Field("", pattern=r"^([A-Za-z0-9_-]+:[2-9]|[A-Za-z0-9_-]+:[1-9][0-9]+)?$")
    skew: Literal["none", "quantity", "label", "scanner"] = "none"
    hold_out: tuple[str, ...] = ()
    search: tuple[Literal["architecture", "weights"], ...] = ()
    architecture: ArchitectureSpec = ArchitectureSpec()
    weights: WeightSpec = WeightSpec()
    arms: tuple[Arm, ...] = ("local", "fedavg", "fedbn", "omnikd")
    rounds: int = Field(5, ge=1, le=10_000)
    steps: int = Field(40, ge=1)
    student: StudentSpec = StudentSpec(alpha=0.62, beta=0.54, stem_stride=2)
    teacher: TeacherSpec = TeacherSpec()
    image_size: int = Field(128, ge=0, le=1024)
    batch_size: int = Field(8, ge=1)
    lr: float = Field(2e-3, gt=0)
    weight_decay: float = Field(1e-2, ge=0)
    distill: Literal["modality", "universal"] = "modality"
    distill_beta: float = Field(0.3, ge=0)
    prox_mu: float = Field(0.01, ge=0)
    weighting: Literal["n", "sqrt", "equal"] = "sqrt"
    quorum: float = Field(0.5, gt=0, le=1)
    deadline_s: float = Field(0.0, ge=0)
    wire: Wire = "fp32"
    aggregation: AggregationSpec = AggregationSpec()
    dp: DPSpec | None = None
    emulate: str = ""
    backend: Literal["inprocess", "ray"] = "inprocess"
    seed: int = Field(0, ge=0)

    @field_validator("arms")
    @classmethod
    def _arms(cls, arms: tuple[Arm, ...]) -> tuple[Arm, ...]:
        if len(set(arms)) != len(arms):
            raise ValueError("name each arm once")
        return arms

    @field_validator("image_size")
    @classmethod
    def _size(cls, size: int) -> int:
        if size % 32:
            raise ValueError("image_size must be a multiple of 32")
        return size

    @model_validator(mode="after")
    def _something_to_do(self) -> SimConfig:
        if not self.arms and not self.search:
            raise ValueError("name at least one arm")
        return self

    @model_validator(mode="after")
    def _split_needs_data(self) -> SimConfig:
        if self.split and not self.data:
            raise ValueError("split cuts a real site: give data as well")
        return self

    @model_validator(mode="after")
    def _private(self) -> SimConfig:
        if self.dp:
            check_dp(student=self.student, teacher=self.teacher, arms=self.arms, searches=bool(self.search))
        return self

    @property
    def teaches(self) -> bool:
        """Whether sites need teachers."""
        return "omnikd" in self.arms or "weights" in self.search

    def lasting(self) -> dict[str, Any]:
        """What a resumed run must keep: all but the searches' budgets."""
        values = self.model_dump(mode="json")
        for name in ("architecture", "weights"):
            del values[name]["budget"]
        return values

    def train_spec(self, precision: Precision = "auto") -> TrainSpec:
        """The fit of one round at one site; ``first_step`` is set by the coordinator."""
        return TrainSpec(
            steps=self.steps,
            total_steps=self.rounds * self.steps,
            batch_size=self.batch_size,
            lr=self.lr,
            weight_decay=self.weight_decay,
            warmup=min(20, self.rounds * self.steps // 10),
            precision=precision,
            seed=self.seed,
        )
