"""FED.toml: what a coordinator declares, checked once where it enters. Needs no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from omnifed.config import load_toml, parse
from omnifed.errors import OmniFedError
from omnifed.privacy.rules import check_promises
from omnifed.search.spec import check_devices, nested
from omnifed_server.arm import quorum_size
from omnifed_server.settings import CampaignSettings

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


class FederationConfig(CampaignSettings):
    """A deployed campaign: what every campaign declares, and who takes part, where, and with what proof.

    Attributes:
        name: of the campaign; with some random letters of each new run folder it is what the sites keep models under.
        sites: registered names; the order in which replies are averaged.
        arms: the methods to run, one after the other.
        stages: what to do; a stage that is left out must have been done before, in the same folder. The two searches
            are done only where they are named.
        wait_s: seconds to wait for a quorum of sites to connect.
        purpose: what the campaign is for, in one word; sites serve the purposes that their policies list.
        precision: one for all sites, so that unlike machines compute alike.
        gate: ``auto`` lets sites refuse an averaged part where sites are unlike.
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
    wait_s: float = Field(3600.0, ge=0)
    purpose: str = Field("research", pattern=r"^[a-z0-9_-]{1,40}$")
    precision: Literal["fp32", "bf16"] = "fp32"
    gate: Literal["auto", "always", "never"] = "auto"
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

    def lasting(self) -> dict[str, Any]:
        """What a campaign that goes on must keep: all but :data:`OPERATION` and the searches' budgets."""
        return {name: value for name, value in super().lasting().items() if name not in OPERATION}


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
