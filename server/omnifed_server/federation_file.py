"""FED.toml: what a coordinator declares, checked once where it enters. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from omnifed.config import Frozen, load_toml, parse
from omnifed.errors import OmniFedError
from omnifed.models.spec import StudentSpec
from omnifed.privacy.rules import check_promises
from omnifed.privacy.spec import AggregationSpec, DPSpec
from omnifed.search.spec import ArchitectureSpec, WeightSpec, check_devices, nested
from omnifed.teachers.spec import TeacherSpec
from omnifed.training.spec import TrainSpec
from omnifed_server.arm import quorum_size

Method = Literal["local", "fedavg", "fedprox", "fedbn", "omnikd"]
Stage = Literal["prepare", "teach", "search-architecture", "search-weights", "train", "evaluate", "export"]
SiteName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
STAGES: tuple[Stage, ...] = ("prepare", "teach", "train", "evaluate", "export")

OPERATION = (
    "stages",
    "wait_s",
    "host",
    "port",
    "insecure",
    "identity",
    "metrics_port",
    "tracking",
    "folder",
)
"""Settings that do not change a result: a campaign that goes on may change them."""
SEARCHES = ("architecture", "weights")
"""Tables of the searches, whose budgets may grow."""


class FederationConfig(Frozen):
    """A deployed campaign.

    Attributes:
        name: of the campaign; with some random letters of each new run folder it is what the sites keep models under.
        sites: registered names; the order in which replies are averaged.
        arms: the methods to run, one after the other.
        stages: what to do; a stage that is left out must have been done before, in the same folder. The two searches
            are done only where they are named.
        rounds: of each arm.
        steps: optimiser steps of each site in each round.
        student: a table, or the command line's form ``omnisegnet:compact,stem_stride=2``.
        teacher: a table, or its kind alone.
        batch_size, lr, weight_decay: of the student.
        distill: ``modality`` takes the published weights of each site's modality, ``universal`` their mean.
        distill_beta: weight of OmniKD against the supervised loss.
        prox_mu: of the arm ``fedprox``.
        weighting: how a site's cases weigh in the mean.
        wire: how weights travel.
        quorum: up to 1 a share of the sites, above 1 a number of sites, that a round and a stage need.
        deadline_s: seconds a site may take for a round; 0 derives it from the rounds' measured times.
        wait_s: seconds to wait for a quorum of sites to connect.
        purpose: what the campaign is for, in one word; sites serve the purposes that their policies list.
        aggregation: how updates are combined: a table, or the mode alone.
        dp: differential privacy of the sites' patients; none by default.
        precision: one for all sites, so that unlike machines compute alike.
        gate: ``auto`` lets sites refuse an averaged part where sites are unlike.
        architecture, weights: of the stages ``search-architecture`` and ``search-weights``; budgets may grow later.
        seed: everything derives from it.
        host, port: where the coordinator listens.
        insecure: no TLS, no identity and no signature; to try it on one machine.
        identity: folder that ``omnifed-server init`` made.
        metrics_port: of the metrics for Prometheus; 0 serves none.
        tracking: a further log of rounds and scores.
        folder: RUN; empty takes ``runs/NAME``.
    """

    name: str = Field("federation", pattern=r"^[A-Za-z0-9_-]{1,50}$")
    sites: tuple[SiteName, ...] = Field(min_length=1)
    arms: tuple[Method, ...] = Field(("omnikd",), min_length=1)
    stages: tuple[Stage, ...] = Field(STAGES, min_length=1)
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
    wire: Literal["fp32", "bf16", "int8-delta"] = "fp32"
    quorum: float = Field(0.5, gt=0)
    deadline_s: float = Field(0.0, ge=0)
    wait_s: float = Field(3600.0, ge=0)
    purpose: str = Field("research", pattern=r"^[a-z0-9_-]{1,40}$")
    aggregation: AggregationSpec = AggregationSpec()
    dp: DPSpec | None = None
    precision: Literal["fp32", "bf16"] = "fp32"
    gate: Literal["auto", "always", "never"] = "auto"
    architecture: ArchitectureSpec = ArchitectureSpec()
    weights: WeightSpec = WeightSpec()
    seed: int = Field(0, ge=0)
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=1, le=65535)
    insecure: bool = False
    identity: str = ""
    metrics_port: int = Field(0, ge=0, le=65535)
    tracking: Literal["", "tensorboard", "mlflow"] = ""
    folder: str = ""

    @field_validator("sites", "arms", "stages")
    @classmethod
    def _once(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(names)) < len(names):
            raise ValueError("name each once")
        return names

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

    @model_validator(mode="after")
    def _promises(self) -> FederationConfig:
        check_promises(
            self.aggregation,
            self.dp,
            sites=len(self.sites),
            wire=self.wire,
            student=self.student,
            teacher=self.teacher,
            arms=self.arms,
            searches=bool({"search-architecture", "search-weights"} & set(self.stages)),
        )
        return self

    @model_validator(mode="after")
    def _quorum(self) -> FederationConfig:
        if self.needed > len(self.sites):
            raise ValueError("quorum must not exceed the number of sites")
        return self

    @model_validator(mode="after")
    def _searches(self) -> FederationConfig:
        if "search-weights" in self.stages and "omnikd" not in self.arms:
            raise ValueError("search-weights finds weights for the arm omnikd: name it in arms")
        if "search-architecture" in self.stages:
            nested(self.architecture, self.sites)
        return self

    @property
    def needed(self) -> int:
        """Replies that a round or a stage needs."""
        return quorum_size(self.quorum, len(self.sites))

    @property
    def run_folder(self) -> Path:
        """RUN: what the coordinator keeps of the campaign."""
        return Path(self.folder).expanduser() if self.folder else Path("runs") / self.name

    def train_spec(self) -> TrainSpec:
        """The fit of one round at one site; ``first_step`` is set by the coordinator."""
        total = self.rounds * self.steps
        return TrainSpec(
            steps=self.steps,
            total_steps=total,
            batch_size=self.batch_size,
            lr=self.lr,
            weight_decay=self.weight_decay,
            warmup=min(20, total // 10),
            precision=self.precision,
            seed=self.seed,
        )

    def lasting(self) -> dict[str, Any]:
        """What a campaign that goes on must keep: all but :data:`OPERATION` and the searches' budgets."""
        values = self.model_dump(mode="json", exclude=set(OPERATION))
        for name in SEARCHES:
            del values[name]["budget"]
        return values


def load_federation(path: Path, **options: Any) -> FederationConfig:
    """Reads FED.toml.

    Args:
        path: the file.
        options: settings that win over the file's.

    Raises:
        OmniFedError: OF101 if the file cannot be read, OF102 with the path of each wrong key, OF710 for an unknown
            device of a search, OF146 for plain HTTP
            beyond this machine, OF147 for a coordinator without identity, OF301 for an unknown student.
    """
    config = load_toml(FederationConfig, path)
    if options:
        config = parse(FederationConfig, {**config.model_dump(), **options}, "the options")
    if "search-architecture" in config.stages:
        check_devices(config.architecture)
    if config.insecure and config.host not in ("127.0.0.1", "localhost", "::1"):
        raise OmniFedError(
            "OF146",
            "A coordinator without TLS listens on this machine only.",
            seen=f"insecure with host {config.host}",
            remedy="Remove insecure, and name the folder that omnifed-server init made as identity.",
        )
    if not config.insecure and not config.identity:
        raise OmniFedError(
            "OF147",
            "A coordinator proves who it is: it needs an identity.",
            seen="identity is not set",
            remedy="Run omnifed-server init DIR and set identity = DIR, or try it on one machine with --insecure.",
        )
    return config
