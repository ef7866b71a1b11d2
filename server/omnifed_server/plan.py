"""What a campaign is to do, and what a method's name means: one mapping for simulation and field."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from omnifed.distill.spec import LAMBDA, PUBLIC_SCALES, DistillSpec, TermName
from omnifed.errors import OmniFedError
from omnifed.federation.replies import HelloReply
from omnifed.models.base import LayerGroup
from omnifed.models.scaling import architecture_key
from omnifed.models.slices import covering
from omnifed.models.spec import StudentSpec
from omnifed.privacy.spec import AggregationSpec, DPSpec
from omnifed.search.spec import ArchitectureSpec, WeightSpec
from omnifed.teachers.spec import TeacherSpec
from omnifed.training.spec import TrainSpec
from omnifed_server.arm import ArmConfig
from omnifed_server.settings import CampaignSettings

EXPORTED = ("omnikd", "fedbn", "fedprox", "fedavg", "local", "central")
"""The arm whose models are exported is the first of these that was run."""
DISTILLED = "omnikd"
"""The arm that needs teachers."""
NORMS_STAY = ("fedbn", DISTILLED)
SEARCH_ARCHITECTURE, SEARCH_WEIGHTS = "search-architecture", "search-weights"
"""Names of the two searches, as stages."""


@dataclass(frozen=True)
class Plan:
    """What the stages need to know; made from a simulation's or a federation's configuration.

    Attributes:
        campaign: unique name, the first part of every task's id.
        sites: registered names, in the order of averaging.
        student, teacher, train: what is trained and how; ``train`` is one round.
        rounds: of each arm.
        distill: whose weights of OmniKD's terms.
        distill_beta, prox_mu, weighting, quorum, deadline_s, seed, wire: see :class:`~omnifed_server.arm.ArmConfig`.
        purpose, aggregation, dp: see :class:`~omnifed_server.arm.ArmConfig`.
        gate: ``auto`` is on where sites are unlike.
        starters: also average local layers, into a model for sites that never train.
        needed: sites that a stage needs; 0 goes on with whoever answers.
        architecture, weights: the searches before training; None for none.
        students: by site, what the architecture search chose; the others train ``student``.
        lambdas: by site, what the search for OmniKD's weights found; the others take ``distill``.
        one_machine: all sites run on this machine: one of them measures it for all.
    """

    campaign: str
    sites: tuple[str, ...]
    student: StudentSpec
    teacher: TeacherSpec
    train: TrainSpec
    rounds: int
    distill: Literal["modality", "universal"] = "modality"
    distill_beta: float = 0.3
    prox_mu: float = 0.01
    weighting: Literal["n", "sqrt", "equal"] = "sqrt"
    quorum: float = 0.5
    deadline_s: float | None = None
    seed: int = 0
    wire: Literal["fp32", "bf16", "int8-delta"] = "fp32"
    purpose: str = "research"
    aggregation: AggregationSpec = field(default_factory=AggregationSpec)
    dp: DPSpec | None = None
    gate: Literal["auto", "always", "never"] = "auto"
    starters: bool = False
    needed: int = 0
    architecture: ArchitectureSpec | None = None
    weights: WeightSpec | None = None
    students: Mapping[str, StudentSpec] = field(default_factory=dict)
    lambdas: Mapping[str, dict[TermName, float]] = field(default_factory=dict)
    one_machine: bool = False

    def student_of(self, site: str) -> StudentSpec:
        """The student that ``site`` trains and deploys."""
        return self.students.get(site, self.student)

    @property
    def largest(self) -> StudentSpec:
        """The network of which all sites' students are slices."""
        return covering(self.student_of(site) for site in self.sites)

    @property
    def mixed(self) -> bool:
        """Whether sites train different networks."""
        return len({architecture_key(self.student_of(site)) for site in self.sites}) > 1

    def local_layers(self, arm: str, apart: tuple[LayerGroup, ...]) -> tuple[LayerGroup, ...]:
        """Groups that stay at the site under a method.

        Args:
            arm: the method.
            apart: what unlike sites keep in any case.
        """
        # A slice of a network sees other activations than the network: their norms cannot be averaged.
        norms = arm in NORMS_STAY or self.mixed
        return tuple(dict.fromkeys((*apart, "norm"))) if norms else apart


def planned(
    settings: CampaignSettings, campaign: str, sites: tuple[str, ...], precision: Literal["auto", "fp32", "bf16"]
) -> Plan:
    """The plan of what every campaign declares: no search yet, and nothing that only its kind of campaign knows.

    Args:
        settings: of a simulation or a federation.
        campaign: its unique name.
        sites: those that train.
        precision: of every fit.
    """
    fit = settings.teacher.train.model_copy(update={"precision": precision})
    return Plan(
        campaign=campaign,
        sites=sites,
        student=settings.student,
        teacher=settings.teacher.model_copy(update={"train": fit}),
        train=settings.train_spec(precision),
        rounds=settings.rounds,
        distill=settings.distill,
        distill_beta=settings.distill_beta,
        prox_mu=settings.prox_mu,
        weighting=settings.weighting,
        quorum=settings.quorum,
        deadline_s=settings.deadline_s or None,
        seed=settings.seed,
        wire=settings.wire,
        aggregation=settings.aggregation,
        dp=settings.dp,
    )


@dataclass(frozen=True)
class Facts:
    """What the sites said of themselves when the campaign began; later joiners add to ``hellos`` alone.

    Attributes:
        hellos: by site, in the plan's order.
        apart: groups that unlike sites keep.
        channels, classes: of the first site; they matter only where stem and head are shared.
    """

    hellos: dict[str, HelloReply]
    apart: tuple[LayerGroup, ...]
    channels: int
    classes: int


def arm_config(plan: Plan, arm: str, facts: Facts, taught: tuple[str, ...]) -> ArmConfig:
    """What a method's name means.

    Args:
        plan: the campaign.
        arm: one of local, fedavg, fedprox, fedbn, omnikd.
        facts: of the sites.
        taught: sites with a teacher; the others train supervised.
    """
    local = plan.local_layers(arm, facts.apart)
    distilled = arm == DISTILLED
    return ArmConfig(
        campaign=plan.campaign,
        name=arm,
        sites=plan.sites,
        student={site: plan.student_of(site) for site in plan.sites} if plan.mixed else plan.student_of(plan.sites[0]),
        train=plan.train,
        rounds=plan.rounds,
        aggregate=arm != "local",
        local_layers=local,
        weighting=plan.weighting,
        prox_mu=plan.prox_mu if arm == "fedprox" else 0.0,
        distill={site: distill_spec(plan, facts, site) for site in taught} if distilled else None,
        teacher=plan.teacher if distilled else None,
        # Between modalities averaging can do harm: these sites may go on without it. Between like ones a model that
        # was just averaged is worse for a few steps, then better: a gate would end the federation.
        gate=bool(facts.apart) if plan.gate == "auto" else plan.gate == "always",
        upload="all" if plan.starters and local and not facts.apart else "global",
        quorum=plan.quorum,
        deadline_s=plan.deadline_s,
        seed=plan.seed,
        channels=facts.channels,
        classes=facts.classes,
        wire=plan.wire,
        purpose=plan.purpose,
        aggregation=plan.aggregation,
        dp=plan.dp,
    )


def layers_apart(hellos: list[HelloReply]) -> tuple[LayerGroup, ...]:
    """Groups that unlike sites cannot share: the stem where channels differ, the head where labels differ.

    With either, both stay local, as between modalities the first filters and the last ones mean different things.

    Raises:
        OmniFedError: OF113 if no site answered.
    """
    if not hellos:
        raise OmniFedError(
            "OF113", "At least one site must train.", seen="none answered", remedy="See the sites' logs."
        )
    alike = len({(h.channels, h.labels, h.modality) for h in hellos}) == 1
    return () if alike else ("stem", "head")


def distill_spec(plan: Plan, facts: Facts, site: str) -> DistillSpec:
    """OmniKD at one site: the weights that were found for it, else those published for its modality or for all.

    With differential privacy only the terms of single images, at the scales that no patient has a part in.
    """
    hello = facts.hellos.get(site)
    weights = plan.lambdas.get(site)
    if weights is None and hello and plan.distill == "modality":
        weights = LAMBDA.get(hello.modality)
    weights = weights or LAMBDA["universal"]
    if plan.dp:
        weights = {term: weights[term] for term in PUBLIC_SCALES}
        return DistillSpec(weights=weights, beta=plan.distill_beta, scales=PUBLIC_SCALES)
    return DistillSpec(weights=weights, beta=plan.distill_beta)
