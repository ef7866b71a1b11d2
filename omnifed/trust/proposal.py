"""The policy that a site begins with: our cautious one, or what its federation proposes where that is stricter.

A proposal (``policy.toml`` of the coordinator's folder) comes with the kit. What a site has decided it never changes.
"""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from omnifed.config import load_toml
from omnifed.files import write_atomic
from omnifed.trust.policy import FILE, Policy, sign_policy
from omnifed.trust.signing import SigningKey

TERM = timedelta(days=365)
"""Of the policy that a site begins with."""


def read_proposal(folder: Path, today: date | None = None) -> Policy | None:
    """What a federation proposes to its sites; None if it proposes nothing.

    Args:
        folder: of the coordinator.
        today: for tests.

    Raises:
        OmniFedError: OF101 or OF102 if it cannot be read, OF821 if it has expired.
    """
    if not (folder / FILE).exists():
        return None
    proposal = load_toml(Policy, folder / FILE)
    proposal.check_date(today, then="omnifed-server admit")
    return proposal


def stricter(a: Policy, b: Policy) -> Policy:
    """What both permit, key by key; lists in the order of ``a``."""
    clash = any(_plain(b.partners.get(site, key)) != _plain(key) for site, key in a.partners.items())
    return Policy(
        purposes=tuple(each for each in a.purposes if each in b.purposes),
        tasks=tuple(each for each in a.tasks if each in b.tasks),
        # A partner has one key: no private round could meet two.
        modes=tuple(each for each in a.modes if each in b.modes and not (clash and each == "private")),
        max_campaigns=min(a.max_campaigns, b.max_campaigns),
        max_rounds=min(a.max_rounds, b.max_rounds),
        epsilon=min(a.epsilon or b.epsilon, b.epsilon or a.epsilon),  # 0 is no bound
        require_dp=a.require_dp or b.require_dp,
        min_sites=max(a.min_sites, b.min_sites),
        min_threshold=max(a.min_threshold, b.min_threshold),
        partners={**b.partners, **a.partners},
        min_cases=max(a.min_cases, b.min_cases),
        expires=min(a.expires, b.expires),
    )


def differences(policy: Policy, proposal: Policy) -> list[str]:
    """One line for each key that the proposal names and the policy says otherwise, with both values as in TOML."""
    return [
        f"{key}: proposed {_toml(theirs)}, here {_toml(ours)}"
        for key, theirs in proposal
        if key in proposal.model_fields_set and _plain(ours := getattr(policy, key)) != _plain(theirs)
    ]


def first_policy(folder: Path, key: SigningKey, proposal: Policy | None = None, today: date | None = None) -> bool:
    """Writes and signs the policy that a site begins with, if there is none.

    Args:
        folder: identity folder of the site.
        key: of the site.
        proposal: of the federation.
        today: for tests.

    Returns:
        Whether it was written.

    Raises:
        OmniFedError: OF821 if the proposal has expired; the policy is then written, and not signed.
    """
    if (folder / FILE).exists():
        return False
    policy = Policy(expires=(today or datetime.now(UTC).date()) + TERM)
    text = policy_text(stricter(policy, proposal) if proposal else policy)
    write_atomic(folder / FILE, text.encode(), mode=0o600)
    sign_policy(folder, key)
    return True


def policy_text(policy: Policy) -> str:
    """A ``policy.toml`` with a word on what its keys mean."""
    keys = {key: f"{key} = {_toml(value)}" for key, value in policy}
    partners = "".join(f"\n{site} = {_toml(key)}" for site, key in policy.partners.items())
    return _TEXT.format(**keys | {"partners": f"[partners]{_PARTNERS}{partners}" if partners else _NO_PARTNERS})


def _toml(value: Any) -> str:
    """Numbers, texts and lists of texts are the same in JSON and TOML."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{site} = {_toml(key)}" for site, key in value.items()) + "}"
    return str(value) if isinstance(value, date) else json.dumps(value)


def _plain(value: Any) -> Any:
    """A value for comparing: order in lists and spaces in fingerprints mean nothing."""
    if isinstance(value, dict):
        return {site: _plain(key) for site, key in value.items()}
    return frozenset(value) if isinstance(value, tuple) else value.replace(" ", "") if isinstance(value, str) else value


_PARTNERS = "                              # sites that must take part in a private round: their keys' fingerprints"
_NO_PARTNERS = f"""# [partners]{_PARTNERS[2:]}
# other_hospital = "ab12 cd34 ab12 cd34 ab12 cd34 ab12 cd34\""""
_TEXT = """\
# What this site lets a federation do with its data. docs/policy.md says what each key stops.
# After each change: omnifed-client policy sign --site NAME

{expires:40}# the last day; then the client stops until somebody has looked at this again

{purposes}
{tasks}
{modes:39} # ["private"]: no update of this site alone is ever seen by anybody
{max_campaigns}
{max_rounds:40}# trainings of one campaign
{min_cases:40}# classes with fewer cases leave without scores

{epsilon:40}# of differential privacy, over all campaigns; 0 sets no bound
{require_dp}

{min_sites:40}# of a private round
{min_threshold:40}# of a private round; never below two thirds of its sites, at least 3

{partners}
"""
