"""The settings and the result of one arm: one way to train the same sites."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from omnifed.config import Frozen
from omnifed.distill.spec import DistillSpec
from omnifed.errors import OmniFedError
from omnifed.federation.tasks import FitTask
from omnifed.federation.wire import Wire
from omnifed.models.base import LayerGroup, SiteSpec
from omnifed.models.slices import covering
from omnifed.models.spec import StudentSpec
from omnifed.privacy.spec import AggregationSpec, DPSpec, PrivacySpec
from omnifed.teachers.spec import TeacherSpec
from omnifed.training.spec import TrainSpec


def quorum_size(quorum: float, sites: int) -> int:
    """Replies that are needed: up to 1 a share of ``sites``, above 1 a number of them."""
    return math.ceil(quorum) if quorum > 1 else max(1, math.ceil(quorum * sites - 1e-9))


class ArmConfig(Frozen):
    """One arm of a comparison.

    Attributes:
        campaign: name of the run, unique at the sites: part of every task's id.
        name: of the arm; also the namespace of the sites' local state.
        sites: registered names; the order in which replies are averaged.
        student: one for all, or one a site (slices of the largest; FedAvg over what each site holds, HeteroFL).
        train: the fit; ``steps`` are those of one round, ``first_step``, ``total_steps`` and ``seed`` are set here.
        rounds: number of rounds.
        aggregate: False trains each site alone, with the same rounds and steps.
        local_layers: groups that stay at the site: () is FedAvg, ("norm",) is FedBN.
        weighting: of the mean, by training cases.
        prox_mu: above 0: FedProx.
        distill: OmniKD by site; a site that is not named trains supervised.
        teacher: whose cache the sites use.
        gate: sites may refuse the global part where it is worse on their own validation cases.
        upload: ``all`` also averages the local layers, into a starter for sites that join later.
        quorum: up to 1 a share of the sites, above 1 a number of sites; below it the round is repeated once.
        deadline_s: seconds a round after which a reply is late.
        wire: how weights travel, in both directions: ``fp32``, ``bf16`` (half the bytes) or ``int8-delta`` (a quarter).
        purpose: of the campaign, in one word.
        aggregation: how the updates are combined; it has no meaning where ``aggregate`` is False.
        dp: differential privacy of the sites' patients.
        seed: of the first weights and of every draw at the sites.
        channels, classes: of the global student; they matter only where stem or head are averaged.
    """

    campaign: str = Field(pattern=r"^[A-Za-z0-9_-]{1,60}$")
    name: str = Field(pattern=r"^[a-z0-9_-]{1,40}$")
    sites: tuple[str, ...] = Field(min_length=1)
    student: StudentSpec | dict[str, StudentSpec]
    train: TrainSpec
    rounds: int = Field(ge=1, le=9999)
    aggregate: bool = True
    local_layers: tuple[LayerGroup, ...] = ()
    weighting: Literal["n", "sqrt", "equal"] = "sqrt"
    prox_mu: float = Field(0.0, ge=0)
    distill: dict[str, DistillSpec] | None = None
    teacher: TeacherSpec | None = None
    gate: bool = False
    upload: Literal["global", "all"] = "global"
    quorum: float = Field(0.5, gt=0)
    deadline_s: float | None = Field(None, gt=0)
    wire: Wire = "fp32"
    purpose: str = "research"
    aggregation: AggregationSpec = AggregationSpec()
    dp: DPSpec | None = None
    seed: int = 0
    channels: int = 3
    classes: int = 2

    @field_validator("sites")
    @classmethod
    def _once(cls, sites: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(sites)) < len(sites):
            raise ValueError("each site must be named once")
        return sites

    @model_validator(mode="after")
    def _fits(self) -> ArmConfig:
        if isinstance(self.student, dict) and set(self.student) != set(self.sites):
            raise ValueError("student must name every site, or be one for all")
        if self.needed > len(self.sites):
            raise ValueError("quorum must not exceed the number of sites")
        if self.distill and self.teacher is None:
            raise ValueError("distill needs a teacher")
        if self.private and (isinstance(self.student, dict) or self.upload == "all" or self.wire != "fp32"):
            raise ValueError("private aggregation adds up one student's global part at fp32")
        return self

    @property
    def needed(self) -> int:
        """Replies that a round needs."""
        return quorum_size(self.quorum, len(self.sites))

    @property
    def privacy(self) -> PrivacySpec:
        """What each fit says of it."""
        how = self.aggregation
        if not self.aggregate:
            return PrivacySpec(dp=self.dp)
        threshold = how.threshold_of(len(self.sites)) if how.mode == "private" else 0
        return PrivacySpec(
            mode=how.mode,
            threshold=threshold,
            clip=how.clip,
            sites=self.sites,
            weighting=self.weighting,
            dp=self.dp,
        )

    @property
    def private(self) -> bool:
        """Whether updates are added up under masks."""
        return self.aggregate and self.aggregation.mode == "private"

    @property
    def spec(self) -> SiteSpec:
        """Channels and classes of the global student."""
        return SiteSpec(channels=self.channels, classes=self.classes)

    def student_of(self, site: str) -> StudentSpec:
        """The student that ``site`` trains."""
        return self.student[site] if isinstance(self.student, dict) else self.student

    @property
    def largest(self) -> StudentSpec:
        """The student of which all others are slices."""
        if isinstance(self.student, StudentSpec):
            return self.student
        return covering(self.student.values())

    def task(
        self, round_: int, site: str, scales: dict[str, float], base: int | None = None, attempt: int = 0
    ) -> FitTask:
        """What ``site`` is asked in a round: the same task, with the same id, however often it is asked.

        Args:
            round_: 0-based.
            site: registered name.
            scales: OmniKD's m_i, fixed for all sites once they are known.
            base: of the coding, see :class:`~omnifed.federation.tasks.FitTask`.
            attempt: of a private round.
        """
        steps = self.train.steps
        place = {
            "first_step": round_ * steps,
            "total_steps": self.train.total_steps or self.rounds * steps,
            "seed": self.seed,
        }
        distill = (self.distill or {}).get(site)
        if distill and scales and not distill.scales:
            distill = DistillSpec.model_validate({**distill.model_dump(), "scales": scales})
        return FitTask(
            id=self.task_id(round_, site, "fit", attempt),
            campaign=self.campaign,
            arm=self.name,
            purpose=self.purpose,
            round=round_,
            student=self.student_of(site),
            train=self.train.model_copy(update=place),
            local_layers=self.local_layers,
            teacher=self.teacher if distill else None,
            distill=distill,
            prox_mu=self.prox_mu if self.aggregate else 0.0,
            gate=self.gate and self.aggregate,
            upload=self.upload if self.aggregate else "none",
            wire=self.wire if self.aggregate else "fp32",
            base=base,
            privacy=self.privacy,
            attempt=attempt,
        )

    def task_id(self, round_: int, site: str, kind: str, attempt: int = 0) -> str:
        """Id of the task of one kind that a site gets in an attempt of a round."""
        again = f".a{attempt}" if attempt else ""
        return f"{self.campaign}.{self.name}.r{round_}.{site}.{kind}{again}"


@dataclass(frozen=True)
class Miss:
    """A site that a round went on without."""

    round: int
    site: str
    code: str
    rule: str


@dataclass(frozen=True)
class ArmResult:
    """What an arm ended with.

    Attributes:
        arm: its name.
        rounds: finished rounds.
        state: file of the global state (read with :func:`omnifed.states.read_state`); None for sites alone.
        starter: file of a whole student for a site that joins later; None unless ``upload`` is ``all``.
        dice: last validation Dice by site.
        scales: OmniKD's m_i.
        misses: all of them.
        seconds: wall time of the rounds, those before a resume included.
        virtual_seconds: on the grid's virtual clock; None on a deployed federation.
        bytes_up, bytes_down: between sites and coordinator.
    """

    arm: str
    rounds: int
    state: Path | None
    starter: Path | None
    dice: dict[str, float] = field(default_factory=dict)
    scales: dict[str, float] = field(default_factory=dict)
    misses: tuple[Miss, ...] = ()
    seconds: float = 0.0
    virtual_seconds: float | None = None
    bytes_up: int = 0
    bytes_down: int = 0


def below_quorum(config: ArmConfig, misses: list[Miss], have: int) -> OmniFedError:
    """The error of a round that too few sites answered, twice."""
    names = ", ".join(f"{miss.site} ({miss.code})" for miss in misses)
    return OmniFedError(
        "OF509",
        f"A round needs {config.needed} of {len(config.sites)} sites, and was asked twice.",
        seen=f"{have} answered; missing: {names}",
        remedy="See what the missing sites' codes say, then start the same command again (omnifed-sim: with "
        "--resume): finished rounds and the replies at hand are kept.",
    )
