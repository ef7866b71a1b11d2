"""Any policy, for properties."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

from hypothesis import strategies as st

from omnifed.trust.policy import Policy

KEYS = ("f041 2414 891d a8de 77c0 5a21 9b1e 30d4", "0b77 e2c9 4d5f 1a68 c3ea 96f2 58b0 7d13")


def _some(*values: str) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(st.sampled_from(values), unique=True).map(tuple)


def policies(keys: Sequence[str] = KEYS) -> st.SearchStrategy[Policy]:
    """Policies of all kinds, over few values of each key, so that two of them meet.

    Args:
        keys: fingerprints of partners ``a`` and ``b``, right or wrong.
    """
    return st.builds(
        Policy,
        purposes=_some("research", "care", "audit"),
        tasks=_some("teach", "fit", "evaluate", "export", "trial", "bench"),
        modes=_some("mean", "private", "robust"),
        max_campaigns=st.integers(1, 30),
        max_rounds=st.integers(1, 300),
        epsilon=st.sampled_from((0.0, 0.5, 1e-5, 3.0, 8.0)),
        require_dp=st.booleans(),
        min_sites=st.integers(2, 7),
        min_threshold=st.integers(0, 7),
        partners=st.dictionaries(st.sampled_from("ab"), st.sampled_from(keys)),
        min_cases=st.integers(1, 40),
        expires=st.dates(date(2099, 1, 1), date(2099, 1, 9)),
    )
