"""What a coordinator may ask of a site: a closed, declarative, versioned schema. No code ever travels.

The same tasks run in process and deployed. Arrays travel beside a task or reply, as a named state
(``dict[str, numpy.ndarray]``); everything else is here. Paths of a site never appear in a task.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from omnifed.config import Frozen
from omnifed.devices.measurement import Engine
from omnifed.distill.spec import DistillSpec
from omnifed.federation.protocol import MIN_PROTOCOL, PROTOCOL
from omnifed.federation.wire import Wire
from omnifed.models.base import LayerGroup
from omnifed.models.spec import StudentSpec
from omnifed.privacy.spec import PrivacySpec
from omnifed.teachers.spec import TeacherSpec
from omnifed.training.spec import TrainSpec
from omnifed.trust.signing import Signed

MOST_NETWORKS = 10
"""Networks that a site measures for one latency model."""

MOST_PARTIES = 1000
"""Sites of one private round."""


class TaskBase(Frozen):
    """Fields of every task.

    Attributes:
        id: unique and deterministic (campaign, arm, round, site, kind); a repeated id is
            answered from the site's store.
        protocol: :data:`PROTOCOL` of the sender.
        campaign: whose state at the site it is about: a new campaign never meets the models of an old one.
        arm: namespace of the site's local state within a campaign, so that arms of a comparison never mix.
        purpose: what the campaign is for, in one word; a site's policy lists those that it serves.
    """

    id: str = Field(pattern=r"^[A-Za-z0-9_.:-]{1,200}$")
    protocol: int = PROTOCOL
    campaign: str = Field("", pattern=r"^[A-Za-z0-9_-]{0,60}$")
    arm: str = Field("main", pattern=r"^[a-z0-9_-]{1,40}$")
    purpose: str = Field("research", pattern=r"^[a-z0-9_-]{1,40}$")


class HelloTask(TaskBase):
    """Who are you, what data do you have?

    Attributes:
        oldest: the oldest protocol that the coordinator speaks.
    """

    kind: Literal["hello"] = "hello"
    oldest: int = MIN_PROTOCOL


class TeachTask(TaskBase):
    """Fine-tune the teacher at the site and fill its cache. Nothing but metrics comes back."""

    kind: Literal["teach"] = "teach"
    teacher: TeacherSpec = TeacherSpec()


class FitTask(TaskBase):
    """Train the student for one round. The global part of the state travels with the task.

    Attributes:
        round: 0-based.
        student: what to build.
        train: the fit of this round.
        local_layers: groups that stay at the site.
        teacher: given with ``distill``: whose cache to use.
        distill: OmniKD, or None for supervised training.
        prox_mu: weight of FedProx's proximal term (Li et al., MLSys 2020); 0 switches it off.
        gate: take the incoming global part only if it is not worse than the site's own model on its validation cases.
        upload: ``global`` sends the averaged part; ``all`` also the local layers, for a model that a site which joins
            later can start from; ``none`` sends nothing (the arm that trains alone).
        wire: how the weights of this task and of its reply are coded (:mod:`omnifed.federation.wire`).
        base: with ``int8-delta``, the round whose weights, as the site holds them, these are the change to; -1 is all
            zeros, None means that the whole weights travel, as they are. The reply is coded against what the site
            holds after this task.
        privacy: how the update will be combined with others, and what is promised to the site's patients.
        attempt: with private aggregation, how often its exchanges began anew before, from 0; the training is not
            repeated.
    """

    kind: Literal["fit"] = "fit"
    round: int = Field(ge=0)
    student: StudentSpec
    train: TrainSpec
    local_layers: tuple[LayerGroup, ...] = ()
    teacher: TeacherSpec | None = None
    distill: DistillSpec | None = None
    prox_mu: float = Field(0.0, ge=0)
    gate: bool = False
    upload: Literal["global", "all", "none"] = "global"
    wire: Wire = "fp32"
    base: int | None = Field(None, ge=-1)
    privacy: PrivacySpec = PrivacySpec()
    attempt: int = Field(0, ge=0)


class EvaluateTask(TaskBase):
    """Score a student on one split. Per-case scores stay at the site.

    Attributes:
        which: ``adopted`` is the model that the site would deploy (chosen by its gate), ``global`` is the state that
            travels with the task on top of the site's local layers, ``given`` is the travelling state alone,
            ``teacher`` is the site's own teacher.
        adopt: with ``global``: let the gate adopt that model if its validation Dice is not worse.
        teacher: with ``teacher``: which one.
    """

    kind: Literal["evaluate"] = "evaluate"
    student: StudentSpec
    split: Literal["val", "test"] = "test"
    which: Literal["adopted", "global", "given", "teacher"] = "adopted"
    local_layers: tuple[LayerGroup, ...] = ()
    adopt: bool = False
    teacher: TeacherSpec | None = None


class ExportTask(TaskBase):
    """Export the student that the site would deploy. The file stays at the site; only figures come back.

    Attributes:
        student: what was trained.
        cases: images on which the file is compared with the student before it is published.
    """

    kind: Literal["export"] = "export"
    student: StudentSpec
    cases: int = Field(8, ge=1, le=8)


class TrialTask(TaskBase):
    """Train a student briefly on a part of the site's patients and score it on the validation cases. Nothing is kept
    but the reply, and the anchor's scores of single cases.

    Weights that travel with the task (a slice of a shared network) are what the student starts from; keys that they
    lack begin at random.

    Attributes:
        student, train: what is trained, and how.
        fraction: share of the training patients, drawn by hash; at least one with a mask.
        teacher, distill: OmniKD, or None for supervised training.
        anchor: other trials at this site and of the same ``group`` are compared with this one, case by case.
        group: trials whose standard errors are those of their paired difference from the group's anchor.
    """

    kind: Literal["trial"] = "trial"
    student: StudentSpec
    train: TrainSpec
    fraction: float = Field(1.0, gt=0, le=1)
    teacher: TeacherSpec | None = None
    distill: DistillSpec | None = None
    anchor: bool = False
    group: str = Field("", pattern=r"^[a-z0-9_-]{0,40}$")


class BenchTask(TaskBase):
    """Measure the inference of some students, with random weights, on the site's own device.

    Attributes:
        students: what to measure.
        engine, threads: see :class:`~omnifed.devices.measurement.Measurement`.
    """

    kind: Literal["bench"] = "bench"
    students: tuple[StudentSpec, ...] = Field(min_length=1, max_length=MOST_NETWORKS)
    engine: Engine = "ort"
    threads: int = Field(1, ge=1, le=64)


class PrivateTask(TaskBase):
    """An exchange of secure aggregation (docs/secure-aggregation.md) about the update that a fit left at the site.

    Attributes:
        round, attempt: those of the fit.
    """

    round: int = Field(ge=0)
    attempt: int = Field(0, ge=0)


class SharesTask(PrivateTask):
    """Share your two secrets with these sites.

    Attributes:
        keys: what all of them advertised with their fits, each signed by its site.
    """

    kind: Literal["shares"] = "shares"
    keys: tuple[Signed, ...] = Field(max_length=MOST_PARTIES)


class MaskedTask(PrivateTask):
    """Send your update under its masks.

    Attributes:
        inbox: sealed shares for this site, base64, by the site that they come from.
    """

    kind: Literal["masked"] = "masked"
    inbox: dict[str, str] = Field(max_length=MOST_PARTIES)


class UnmaskTask(PrivateTask):
    """Reveal your shares: of the self-masks of the sites whose updates are in the sum, of the keys of the others.

    Attributes:
        survivors: whose updates are in the sum, signed by the coordinator.
        receipts: what each of them signed when it sent its update.
    """

    kind: Literal["unmask"] = "unmask"
    survivors: Signed
    receipts: tuple[Signed, ...] = Field(max_length=MOST_PARTIES)


Task = Annotated[
    HelloTask
    | TeachTask
    | FitTask
    | SharesTask
    | MaskedTask
    | UnmaskTask
    | EvaluateTask
    | ExportTask
    | TrialTask
    | BenchTask,
    Field(discriminator="kind"),
]

TASK: TypeAdapter[Task] = TypeAdapter(Task)
