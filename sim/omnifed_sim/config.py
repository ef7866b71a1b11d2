"""What `omnifed-sim` is asked to do: one frozen model, written to RUN/config.json."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from omnifed.privacy.rules import check_dp
from omnifed_server.settings import CampaignSettings

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


class SimConfig(CampaignSettings):
    """One comparison of arms over the same sites, splits, steps and seeds: what every campaign declares, and the sites.

    Attributes:
        preset: phantom sites to make; ignored where ``data`` is given.
        phantom_scale: size of the phantom sites relative to the preset.
        data: folder whose sub-folders are sites; empty takes the preset.
        sites: names to take, all if empty.
        split: ``SITE:K`` cuts that site by patient into K hospitals, which replace it.
        skew: how these hospitals differ.
        hold_out: sites that never train; the shared model is tested there.
        search: searches before the arms, none by default; what they find is what the arms train.
        arms: what to compare, in this order; may be empty where there is a search.
        image_size: side in pixels; 0 keeps each site's own.
        quorum: share of the sites that must answer a round.
        emulate: TOML file of site speeds, bandwidths and drop-outs.
        backend: ``inprocess``, or ``ray`` for several processes or machines.
    """

    preset: Literal["modalities", "hospitals"] = "modalities"
    phantom_scale: float = Field(1.0, gt=0, le=20)
    data: str = ""
    sites: tuple[str, ...] = ()
    split: str = Field("", pattern=r"^([A-Za-z0-9_-]+:[2-9]|[A-Za-z0-9_-]+:[1-9][0-9]+)?$")
    skew: Literal["none", "quantity", "label", "scanner"] = "none"
    hold_out: tuple[str, ...] = ()
    search: tuple[Literal["architecture", "weights"], ...] = ()
    arms: tuple[Arm, ...] = ("local", "fedavg", "fedbn", "omnikd")
    image_size: int = Field(128, ge=0, le=1024)
    quorum: float = Field(0.5, gt=0, le=1)
    emulate: str = ""
    backend: Literal["inprocess", "ray"] = "inprocess"

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
