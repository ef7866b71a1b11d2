"""What a site may answer: the other half of the closed schema. Figures and, beside some of them, a named state."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from omnifed.config import Frozen
from omnifed.devices.measurement import Measurement
from omnifed.evaluation.score import Score
from omnifed.federation.protocol import PROTOCOL
from omnifed.federation.tasks import MOST_PARTIES
from omnifed.trust.signing import Signed


class ReplyBase(Frozen):
    """Fields of every reply: the task's id, the site's registered name, seconds of work."""

    id: str
    site: str
    protocol: int = PROTOCOL
    seconds: float = Field(0.0, ge=0)


class HelloReply(ReplyBase):
    """What a site has. Counts only.

    Attributes:
        instance: random name of the site's state folder: tells a restarted site from a second one of the same name.
    """

    kind: Literal["hello"] = "hello"
    instance: str = Field("", max_length=64)
    version: str
    channels: int
    classes: int
    labels: tuple[str, ...]
    modality: str
    image_size: tuple[int, int]
    train: int = Field(ge=0)
    unlabelled: int = Field(0, ge=0)
    val: int = Field(ge=0)
    test: int = Field(ge=0)
    skipped: int = Field(0, ge=0)


class TeachReply(ReplyBase):
    """The teacher's validation Dice and the cache's size."""

    kind: Literal["teach"] = "teach"
    teacher_id: str
    dice: float
    cached: int
    cache_bytes: int
    flip_error: float
    joint_flips: bool
    scales: dict[str, float] = {}


class FitReply(ReplyBase):
    """Result of a round; the state travels beside it.

    With private aggregation neither state nor figures travel: they are part of the masked sum.

    Attributes:
        n: training cases (the weight of the mean is derived from it); bounded, as a weight must fit a float.
        loss: mean loss of the round, and each of its parts by name.
        dice: validation Dice of the trained model, 0..1.
        adopted: whether the gate adopted the new model.
        accepted: whether the site trained from the incoming global part, not from its own.
        scales: m_i of OmniKD, once measured.
        keys: with private aggregation, the site's public keys of this attempt, signed by it.
    """

    kind: Literal["fit"] = "fit"
    n: int = Field(ge=0, le=1_000_000_000)
    steps: int = Field(ge=0)
    loss: dict[str, float]
    dice: float
    adopted: bool
    accepted: bool = True
    scales: dict[str, float] = {}
    keys: Signed | None = None


class SharesReply(ReplyBase):
    """Two shared secrets: the seed of the site's own mask, and its mask key.

    Attributes:
        sealed: both shares for each other site, encrypted for it, base64, by its name.
        commitment: to the seed, hex; the mask key is known by its public half.
        digests: sha256 (hex) of the share of the seed and of that of the key, by site, its own included.
    """

    kind: Literal["shares"] = "shares"
    sealed: dict[str, str] = Field(max_length=MOST_PARTIES)
    commitment: str = Field(pattern=r"^[0-9a-f]{64}$")
    digests: dict[str, tuple[str, str]] = Field(max_length=MOST_PARTIES)


class MaskedReply(ReplyBase):
    """The masked update travels beside it.

    Attributes:
        receipt: with whose masks, signed by the site.
    """

    kind: Literal["masked"] = "masked"
    receipt: Signed


class UnmaskReply(ReplyBase):
    """The site's shares, hex, by the site whose secret they belong to: one of each site, never both.

    Attributes:
        seeds: of the self-masks of the sites in the sum.
        keys: of the mask keys of those that dropped out after they had shared them.
    """

    kind: Literal["unmask"] = "unmask"
    seeds: dict[str, str] = Field(max_length=MOST_PARTIES)
    keys: dict[str, str] = Field(max_length=MOST_PARTIES)


class EvaluateReply(ReplyBase):
    """Scores by class and metric."""

    kind: Literal["evaluate"] = "evaluate"
    n: int
    scores: tuple[Score, ...]


class ExportReply(ReplyBase):
    """What a site published for itself.

    Attributes:
        bytes: size of the file.
        max_delta: largest absolute difference of a logit between the file and the student.
        sha256: hex digest of the file, by which the site can be told which model it deploys.
    """

    kind: Literal["export"] = "export"
    bytes: int = Field(ge=0)
    max_delta: float = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class TrialReply(ReplyBase):
    """The score of a brief training.

    Attributes:
        dice: mean validation Dice, 0..1.
        se: standard error of ``dice``, or, with ``paired``, of its difference from the anchor's, case by case.
        n: validation cases.
        patients: training patients that the trial saw.
        step_seconds: of one optimiser step.
        scales: m_i of OmniKD, as measured in this trial.
    """

    kind: Literal["trial"] = "trial"
    dice: float = Field(ge=0, le=1)
    se: float = Field(ge=0)
    paired: bool = False
    n: int = Field(ge=0)
    patients: int = Field(ge=0)
    step_seconds: float = Field(ge=0)
    scales: dict[str, float] = {}


class BenchReply(ReplyBase):
    """Measurements in the order of the task's students.

    Attributes:
        device: what the machine says it is: processor and engine, no name of a host.
        memory_mib: of the machine.
        measurements: one a student.
    """

    kind: Literal["bench"] = "bench"
    device: str = Field(max_length=200)
    memory_mib: float = Field(gt=0)
    measurements: tuple[Measurement, ...]


class FailedReply(ReplyBase):
    """The task failed at the site: number and rule of the error, never a value or a path."""

    kind: Literal["failed"] = "failed"
    code: str
    rule: str


Reply = Annotated[
    HelloReply
    | TeachReply
    | FitReply
    | SharesReply
    | MaskedReply
    | UnmaskReply
    | EvaluateReply
    | ExportReply
    | TrialReply
    | BenchReply
    | FailedReply,
    Field(discriminator="kind"),
]

REPLY: TypeAdapter[Reply] = TypeAdapter(Reply)
