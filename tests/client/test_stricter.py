"""Whatever two policies say: what the stricter of them permits, each of them permits."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from omnifed.errors import OmniFedError
from omnifed.federation.tasks import BenchTask, EvaluateTask, FitTask, Task, TeachTask, TrialTask
from omnifed.models.spec import StudentSpec
from omnifed.privacy.spec import DPSpec, PrivacySpec
from omnifed.training.spec import TrainSpec
from omnifed.trust.policy import Policy
from omnifed.trust.proposal import stricter
from omnifed.trust.roster import Member, MemberTerm, Roster, Term
from omnifed.trust.signing import SigningKey, fingerprint
from omnifed_client.permission import narrow

sys.path.insert(0, str(Path(__file__).parents[1] / "trust"))
from policies import policies

SPEC, TRAIN, NOW = StudentSpec(), TrainSpec(), datetime.now(UTC)
LASTS = {"since": NOW - timedelta(days=1), "until": NOW + timedelta(days=1)}
SITES = {site: SigningKey.generate().public for site in "abcdefg"}
ROSTER = Roster(
    federation="f", version=1, issued=NOW, expires=NOW + timedelta(days=1), coordinator=(Term(sign="0" * 64, **LASTS),),
    members=tuple(Member(site=s, terms=(MemberTerm(sign=key, node=s, **LASTS),)) for s, key in SITES.items()),
)  # fmt: skip
POLICIES = policies([fingerprint(SITES[site]) for site in "ab"])


@st.composite
def tasks(draw: st.DrawFn) -> Task:
    """Tasks of all kinds that a policy looks at."""
    purpose, kind = draw(st.sampled_from(("research", "care"))), draw(st.sampled_from("tfffffebs"))
    about = {"id": "t", "purpose": purpose}
    if kind != "f":
        return {
            "t": TeachTask(**about),
            "e": EvaluateTask(student=SPEC, **about),
            "b": BenchTask(students=(SPEC,), **about),
            "s": TrialTask(student=SPEC, train=TRAIN, **about),
        }[kind]
    sites = draw(st.integers(2, 7))
    dp = draw(st.none() | st.sampled_from([DPSpec(epsilon=each) for each in (0.1, 1.0, 8.0)]))
    mode, threshold = draw(st.sampled_from(("mean", "private", "robust"))), draw(st.integers(2, sites))
    privacy = PrivacySpec(mode=mode, threshold=threshold, sites=tuple(SITES)[:sites], dp=dp)
    return FitTask(round=0, student=SPEC, train=TRAIN, privacy=privacy, **about)


def permitted(task: Task, policy: Policy) -> float | None:
    """Epsilon with which the task is done, 0 without a bound in it; None if it is refused."""
    try:
        done = narrow(task, policy, ROSTER)
    except OmniFedError:
        return None
    return done.privacy.dp.epsilon if isinstance(done, FitTask) and done.privacy.dp else 0.0


@settings(max_examples=200, deadline=None)
@given(task=tasks(), a=POLICIES, b=POLICIES)
def test_the_stricter_of_two_never_permits_more_than_either(task: Task, a: Policy, b: Policy) -> None:
    both = stricter(a, b)
    done = permitted(task, both)
    for each in (a, b):
        alone = permitted(task, each)
        assert done is None or (alone is not None and done <= alone)
        # What is counted over tasks, and what leaves.
        assert (both.max_campaigns <= each.max_campaigns, both.max_rounds <= each.max_rounds) == (True, True)
        assert (both.min_cases >= each.min_cases, both.expires <= each.expires) == (True, True)
    # Nor less than both permit.
    assert done is not None or permitted(task, a) is None or permitted(task, b) is None
