"""What a search ends with, as it is written to RUN/search and read by the report. Needs no torch."""

from __future__ import annotations

from typing import Literal

from omnifed.config import Frozen
from omnifed.devices.measurement import Evidence
from omnifed.distill.spec import TermName
from omnifed.models.spec import StudentSpec
from omnifed.search.trials import Observation


class Difference(Frozen):
    """A difference in Dice points (100 = 1.0) and its 95 % interval."""

    points: float
    low: float
    high: float

    @property
    def told_apart(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.low > 0 or self.high < 0


class NetworkResult(Frozen):
    """One network of the search.

    Attributes:
        key: architecture key.
        student: how to build it.
        params, macs: exact costs at the search's image size.
        dice, sd: posterior mean and standard deviation at the highest fidelity, mean over the sites.
        trials: observations of it, all fidelities.
        steps: of the longest trial; 0 where it was not tried.
    """

    key: str
    student: StudentSpec
    params: int
    macs: int
    dice: float
    sd: float
    trials: int
    steps: int


class FrontMember(Frozen):
    """A network on a device's Pareto front (Dice against latency, within the budgets).

    Attributes:
        key: architecture key; its :class:`NetworkResult` is among the result's networks.
        p50_ms, p95_ms, peak_mib: on that device.
        fitness: the seed's scalar F.
    """

    key: str
    p50_ms: float
    p95_ms: float
    peak_mib: float
    fitness: float


class VariantCheck(Frozen):
    """One of the paper's variants held against a front.

    Attributes:
        name: compact, balanced or accurate.
        key: architecture key, with the options of the search.
        p95_ms, peak_mib: on the device.
        fits: whether it is within the budgets.
        better: key of the front's member of at most its latency with the best Dice; empty if there is none.
        difference: Dice of that member minus the variant's.
        verdict: one sentence.
    """

    name: str
    key: str
    p95_ms: float
    peak_mib: float
    fits: bool
    better: str
    difference: Difference | None
    verdict: str


class DeviceResult(Frozen):
    """What the search found for one class of devices.

    Attributes:
        name: of the target.
        profile: whose latency model was used.
        evidence: of its figures.
        latency_ms, memory_mib: the budgets; memory 0 is none.
        sites: that deploy the chosen student.
        front: by latency, fastest first.
        chosen: key of the chosen student.
        reason: why, in one or two sentences.
        variants: the paper's three.
        p95_ms: of every network that was tried, by architecture key.
    """

    name: str
    profile: str
    evidence: Evidence
    latency_ms: float
    memory_mib: float
    sites: tuple[str, ...]
    front: tuple[FrontMember, ...]
    chosen: str
    reason: str
    variants: tuple[VariantCheck, ...]
    p95_ms: dict[str, float] = {}


class SiteEffect(Frozen):
    """How much easier a site is than the mean of all, in Dice, and how many trials it did."""

    site: str
    effect: float
    trials: int
    failed: int


class Step(Frozen):
    """One observation in the order of telling, with the best so far (the searched-for figure's posterior)."""

    number: int
    site: str
    key: str
    steps: int
    why: str
    dice: float
    corrected: float
    best: float

    @classmethod
    def of(cls, number: int, seen: Observation, *, corrected: float, best: float) -> Step:
        """The step of an observation."""
        trial, scores = seen.trial, {"dice": seen.dice, "corrected": corrected, "best": best}
        return cls(number=number, site=trial.site, key=trial.key, steps=trial.steps, why=trial.why, **scores)


class Agreement(Frozen):
    """Kendall's tau between brief and long training of the same networks.

    Attributes:
        brief, long: steps.
        full: whether the long ones saw all patients and all rounds' steps.
        networks: compared.
        tau: -1..1.
        low, high: 95 % bootstrap interval over networks; None below 4 of them.
    """

    brief: int
    long: int
    full: bool
    networks: int
    tau: float
    low: float | None = None
    high: float | None = None


class ArchitectureResult(Frozen):
    """The outcome of an architecture search.

    Attributes:
        method: how it searched.
        stopped: why it ended (budget, space exhausted, ...).
        trials: observations; ``failed``: trials that sites could not do.
        seconds: work at the sites, all trials.
        cost: work of the search relative to training the balanced student once in this federation (steps x MACs),
            without the trainings in full.
        full_cost: of the trainings in full, which check it.
        image_size: at which costs and latencies hold.
        networks: all that were tried, and all on a front.
        devices: one a target.
        sites: their effects.
        agreement: whether brief trials can be trusted; None where nothing was trained longer.
        history: every observation.
    """

    kind: Literal["architecture"] = "architecture"
    method: str
    stopped: str
    trials: int
    failed: int
    seconds: float
    cost: float
    full_cost: float = 0.0
    image_size: tuple[int, int]
    networks: tuple[NetworkResult, ...]
    devices: tuple[DeviceResult, ...]
    sites: tuple[SiteEffect, ...]
    agreement: Agreement | None
    history: tuple[Step, ...]


class SiteWeights(Frozen):
    """The weights found for one site.

    Attributes:
        site: registered name; ``universal`` for the published mean.
        weights: lambda by term.
        dice, sd: posterior at these weights (for ``universal`` the mean over sites).
        gain: over Table 3's mean at the same site.
        fitness: F(lambda) = Dice - gamma x seconds a step.
        step_seconds: of one training step at these weights.
        universal_loss: Dice points that the universal weights lose here against these.
        trials: observations at the site.
    """

    site: str
    weights: dict[TermName, float]
    dice: float
    sd: float
    gain: Difference
    fitness: float
    step_seconds: float
    universal_loss: float
    trials: int


class WeightResult(Frozen):
    """The outcome of a search for OmniKD's weights.

    Attributes:
        stopped: why it ended.
        trials, failed: counts.
        seconds: work at the sites.
        gamma: of F(lambda).
        term_seconds: what each active term adds to a training step, by the trials' own times.
        base_seconds: a step without any term.
        latency_ms: of the student where known (constant in lambda, shown as the seed's term), else None.
        universal: one lambda for all.
        sites: each site's own.
        told_apart: whether any site's weights, or the universal ones, are told apart from Table 3's mean by the data.
        history: every observation.
    """

    kind: Literal["weights"] = "weights"
    stopped: str
    trials: int
    failed: int
    seconds: float
    gamma: float
    term_seconds: dict[TermName, float]
    base_seconds: float
    latency_ms: float | None
    universal: SiteWeights
    sites: tuple[SiteWeights, ...]
    told_apart: bool
    history: tuple[Step, ...]
