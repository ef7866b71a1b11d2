"""How sites' updates are combined, and what is promised to a patient: settings that travel. Needs no torch."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, model_validator

from omnifed.config import Frozen


class AggregationSpec(Frozen):
    """How the coordinator combines the sites' updates: a table, or the mode alone. The modes exclude each other by
    their nature.

    Attributes:
        mode: ``mean`` sees every update and averages it; ``private`` sees nothing but their sum (secure aggregation);
            ``robust`` sees every update and bounds what one site can do to the result.
        rule: of ``robust``: ``norm-clip`` shortens each update to the median of their norms; ``median`` takes the
            median of each weight.
        threshold: of ``private``: sites that must stay to the end of a round; 0 takes :func:`least_threshold`.
        clip: of ``private``: largest L2 norm of an update; a site shortens what is longer, before it is masked.
    """

    mode: Literal["mean", "private", "robust"] = "mean"
    rule: Literal["norm-clip", "median"] = "norm-clip"
    threshold: int = Field(0, ge=0)
    clip: float = Field(25.0, gt=0, le=1000)

    @model_validator(mode="before")
    @classmethod
    def _mode_alone(cls, value: object) -> object:
        return {"mode": value} if isinstance(value, str) else value

    def threshold_of(self, sites: int) -> int:
        """Sites of ``sites`` that must stay to the end of a private round."""
        return self.threshold or least_threshold(sites)


def least_threshold(sites: int) -> int:
    """The smallest threshold that is safe: two thirds of the sites, at least 3; 4 of 6.

    With 2 t > n no coordinator can show two halves of the sites two lists of survivors and learn a single update from
    the difference, as each site reveals once (Bonawitz et al., CCS 2017, section 6); two thirds hold against one site
    in three that helps it.
    """
    return max(3, math.ceil(2 * sites / 3))


class DPSpec(Frozen):
    """Differential privacy of every training patient of a site: DP-SGD (Abadi et al., CCS 2016), sampled by patient.

    Attributes:
        epsilon: of the whole arm at one site; the site's policy may be stricter.
        delta: 0 takes n^-1.1 for n training patients.
        clip: L2 norm to which the gradient of one patient is shortened.
    """

    epsilon: float = Field(8.0, gt=0, le=8)
    delta: float = Field(0.0, ge=0, lt=0.1)
    clip: float = Field(1.0, gt=0)

    def delta_of(self, patients: int) -> float:
        """delta for a site with that many training patients."""
        return self.delta or patients**-1.1


class PrivacySpec(Frozen):
    """What a campaign asks of a site in the name of privacy; travels with each task that trains.

    Attributes:
        mode: see :class:`AggregationSpec`.
        threshold: see :class:`AggregationSpec`; 0 unless ``private``.
        clip: see :class:`AggregationSpec`.
        sites: that take part, registered names; a site's policy may ask for more of them.
        weighting: of ``private``, where the site weighs its own update: see
            :func:`~omnifed.federation.aggregation.weight`.
        most_cases: of ``private``: a site with more training cases counts as if it had so many, so that a weight has
            a bound that all know.
        dp: None trains without differential privacy.
    """

    mode: Literal["mean", "private", "robust"] = "mean"
    threshold: int = Field(0, ge=0)
    clip: float = Field(25.0, gt=0, le=1000)
    sites: tuple[str, ...] = ()
    weighting: Literal["n", "sqrt", "equal"] = "sqrt"
    most_cases: int = Field(10_000, ge=1)
    dp: DPSpec | None = None

    @model_validator(mode="after")
    def _fits(self) -> PrivacySpec:
        if self.mode == "private" and not 1 < self.threshold <= len(self.sites):
            raise ValueError("a private round needs a threshold between 2 and its number of sites")
        return self
