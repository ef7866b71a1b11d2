"""Membership inference: can somebody who has the student tell who it was trained on? Statistics only; needs no torch.

An attack gives each patient a score, higher for those that it takes for training patients. What it achieves is the AUC,
the chance that it ranks a training patient above another one, 0.5 for guessing, with an interval by patient, and the
share of training patients that it finds while it accuses at most one in ten of the others (Carlini et al., S&P 2022,
argue for figures at low false-positive rates: an AUC hides few patients who are exposed).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from omnifed.config import Frozen
from omnifed.errors import OmniFedError

AUDIT_FILE = "privacy-audit.json"
FEWEST = 5
"""Patients of each kind without which there is nothing to say."""
MOST_FALSE = 0.1
"""Share of other patients that may be taken for training patients."""
DRAWS = 2000

AttackName = Literal["loss", "confidence", "calibrated"]
ATTACKS: dict[AttackName, str] = {
    "loss": "loss of the student on the patient's slices (Yeom et al., CSF 2018)",
    "confidence": "entropy of the student's output; needs no mask (Salem et al., NDSS 2019)",
    "calibrated": "loss less that of students that never saw the patient (Watson et al., ICLR 2022)",
}


class Attack(Frozen):
    """What one attack achieves.

    Attributes:
        name: key of :data:`ATTACKS`.
        auc: area under the ROC curve, 0..1.
        low, high: its 95 % interval, bootstrap by patient.
        tpr: share of training patients found at a false-positive rate of at most :data:`MOST_FALSE`.
    """

    name: AttackName
    auc: float = Field(ge=0, le=1)
    low: float = Field(ge=0, le=1)
    high: float = Field(ge=0, le=1)
    tpr: float = Field(ge=0, le=1)

    @property
    def verdict(self) -> str:
        """What the interval allows to say, and no more."""
        if self.low > 0.5:
            return "better than guessing"
        return "worse than guessing" if self.high < 0.5 else "nothing shown"


class SiteAudit(Frozen):
    """The attacks on one student. Figures only: no case, no patient, no path.

    Attributes:
        site, arm: whose student.
        members: patients with a mask that it was trained on.
        others: patients with a mask of the validation and test splits.
        references: students that calibrate; 0 without the calibrated attack.
        attacks: empty where there are fewer than :data:`FEWEST` patients of either kind.
    """

    site: str
    arm: str
    members: int = Field(ge=0)
    others: int = Field(ge=0)
    references: int = Field(0, ge=0)
    attacks: tuple[Attack, ...] = ()

    @property
    def strongest(self) -> Attack | None:
        """The attack of the highest AUC among those that beat guessing; where none does, among all."""
        proven = [attack for attack in self.attacks if attack.low > 0.5]
        return max(proven or self.attacks, key=lambda attack: attack.auc, default=None)

    @property
    def verdict(self) -> str:
        """One sentence about the strongest attack."""
        attack = self.strongest
        if attack is None:
            return f"Too few patients: {self.members} and {self.others}, {FEWEST} of each are needed."
        found = f"AUC {attack.auc:.2f} [{attack.low:.2f}, {attack.high:.2f}]"
        if attack.low > 0.5:
            return (
                f"The student tells who it was trained on: of a training patient and another one, the attack "
                f"“{attack.name}” picks the right one in {100 * attack.auc:.0f} of 100 pairs ({found})."
            )
        return (
            f"None of {len(self.attacks)} attacks was shown to be better than guessing; with {self.members} and "
            f"{self.others} patients, an AUC up to {max(a.high for a in self.attacks):.2f} cannot be ruled out "
            f"(strongest: “{attack.name}”, {found})."
        )


class Audit(Frozen):
    """The content of :data:`AUDIT_FILE`, which stays where the students are.

    Attributes:
        format: of this file.
        sites: one entry a site; one alone where a site audits its own student.
    """

    format: Literal[1] = 1
    sites: tuple[SiteAudit, ...] = Field(min_length=1)


def auc(members: np.ndarray, others: np.ndarray) -> float:
    """P(member's score > other's) + P(equal) / 2, the Mann-Whitney U over m n.

    Args:
        members: (m,) scores of training patients, m > 0.
        others: (n,) scores of the others, n > 0.
    """
    return float(_wins(members, others).mean())


def roc(members: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """False-positive and true-positive rates, both (t,) from 0 to 1, one point a distinct score.

    Arguments as :func:`auc`'s.
    """
    thresholds = np.unique(np.concatenate([members, others]))[::-1]
    rates = [
        np.concatenate([[0.0], [(group >= at).mean() for at in thresholds]]) for group in (np.sort(others), members)
    ]
    return rates[0], rates[1]


def found_at(members: np.ndarray, others: np.ndarray, most_false: float = MOST_FALSE) -> float:
    """Share of members above a threshold that at most ``most_false`` of the others exceed."""
    allowed = int(most_false * len(others) + 1e-9)
    threshold = np.sort(others)[::-1][allowed] if allowed < len(others) else -np.inf
    return float((members > threshold).mean())


def attack_of(
    name: AttackName, members: np.ndarray, others: np.ndarray, *, seed: int = 0, draws: int = DRAWS
) -> Attack:
    """AUC with its 95 % percentile interval: members and others are drawn with replacement, each group for itself.

    Args:
        name: key of :data:`ATTACKS`.
        members: (m,) scores of training patients, one a patient.
        others: (n,) scores of the others.
        seed: of the draws.
        draws: of the bootstrap.
    """
    wins = _wins(members, others)
    rng = np.random.default_rng([seed])
    m, n = wins.shape
    times = [rng.multinomial(k, np.full(k, 1 / k), size=draws) for k in (m, n)]
    drawn = ((times[0] @ wins) * times[1]).sum(1) / (m * n)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Attack(
        name=name,
        auc=float(wins.mean()),
        low=float(np.clip(low, 0, 1)),
        high=float(np.clip(high, 0, 1)),
        tpr=found_at(members, others),
    )


def enough(audits: tuple[SiteAudit, ...]) -> None:
    """Refuses an audit that says nothing.

    Raises:
        OmniFedError: OF891 if no site has :data:`FEWEST` patients of each kind.
    """
    if not any(audit.attacks for audit in audits):
        raise OmniFedError(
            "OF891",
            f"An audit compares at least {FEWEST} training patients with {FEWEST} others, all with masks.",
            seen=", ".join(f"{audit.site}: {audit.members} and {audit.others}" for audit in audits),
            remedy="Give more patients to the validation and test splits (splits in site.toml), before training.",
        )


def _wins(members: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(m, n): 1 where the member's score is higher, 0.5 where equal."""
    a, b = np.asarray(members, np.float64)[:, None], np.asarray(others, np.float64)[None]
    return (a > b) + 0.5 * (a == b)
