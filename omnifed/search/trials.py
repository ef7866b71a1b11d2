"""What a search asks and what it is told: trials, observations, and the searcher's shape. Needs no torch.

A searcher is a pure function of (configuration, seed, history): :meth:`Searcher.ask` has no state of its own, so the
journal of a search, replayed, gives the same next question bit for bit.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from pydantic import Field

from omnifed.config import Frozen
from omnifed.distill.spec import TermName
from omnifed.models.spec import StudentSpec

Why = Literal["anchor", "warm start", "model", "random", "promoted", "full"]


class Trial(Frozen):
    """One brief training at one site.

    Attributes:
        id: :func:`trial_id` of the study and all that follows; a repeated answer to it is never a second observation.
        key: of the point: an architecture key, or :func:`weights_key`.
        site: registered name.
        steps: optimiser steps.
        fraction: share of the site's training patients, 0..1.
        repeat: 0, 1, ... for the same point, site and fidelity with other random draws.
        student: to train.
        weights: lambda by term; None trains supervised.
        why: what made the searcher ask.
    """

    id: str = Field(pattern=r"^[0-9a-f]{16}$")
    key: str
    site: str
    steps: int = Field(ge=1)
    fraction: float = Field(gt=0, le=1)
    repeat: int = Field(0, ge=0)
    student: StudentSpec
    weights: dict[TermName, float] | None = None
    why: Why


class Observation(Frozen):
    """What leaves a site after a trial.

    Attributes:
        trial: what was asked.
        dice: mean validation Dice, 0..1.
        se: standard error of ``dice``; of its paired difference from the anchor where the site has scored that.
        n: validation cases.
        seconds: work at the site.
        step_seconds: of one optimiser step.
    """

    trial: Trial
    dice: float = Field(ge=0, le=1)
    se: float = Field(ge=0)
    n: int = Field(ge=0)
    seconds: float = Field(ge=0)
    step_seconds: float = Field(0.0, ge=0)


@dataclass(frozen=True)
class History:
    """All that a searcher may look at.

    Attributes:
        told: observations, in the order in which they were told.
        pending: trials that were asked and neither told nor given up, in the order of asking.
        asked: trials asked so far, whatever became of them: the counter of the random draws.
        failed: trials that a site could not do; such a point is not asked of that site again.
    """

    told: tuple[Observation, ...] = ()
    pending: tuple[Trial, ...] = ()
    asked: int = 0
    failed: tuple[Trial, ...] = ()


class Searcher(Protocol):
    """Asks what to try next."""

    def ask(self, history: History, sites: Sequence[str]) -> list[Trial]:
        """Trials for sites that are free, at most one a site, none of them pending.

        Args:
            history: what was asked and told so far.
            sites: registered names of free sites, in the order in which they are to be served.

        Returns:
            At most ``len(sites)`` trials; none where nothing is worth asking now.
        """


def trial_id(study: str, key: str, site: str, steps: int, fraction: float, repeat: int) -> str:
    """16 hex digits of the sha256 over study, point, site, fidelity and repeat."""
    text = json.dumps([study, key, site, steps, fraction, repeat])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def make_trial(
    study: str,
    key: str,
    site: str,
    *,
    steps: int,
    fraction: float,
    student: StudentSpec,
    why: Why,
    repeat: int = 0,
    weights: dict[TermName, float] | None = None,
) -> Trial:
    """A trial with its id."""
    return Trial(
        id=trial_id(study, key, site, steps, fraction, repeat),
        key=key,
        site=site,
        steps=steps,
        fraction=fraction,
        repeat=repeat,
        student=student,
        weights=weights,
        why=why,
    )


def weights_key(weights: dict[TermName, float]) -> str:
    """Names a lambda: its terms in the order of OmniKD, three decimals each."""
    from omnifed.distill.spec import TERMS

    return "/".join(f"{term}{weights.get(term, 0.0):.3f}" for term in TERMS)
