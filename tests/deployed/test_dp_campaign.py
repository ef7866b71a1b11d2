"""Differential privacy between real processes: what is spent, where it is written down, and when a site stops."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest
from harness import Federation, read_events, toml

from omnifed.privacy.dp.accounting import epsilon
from omnifed.privacy.dp.ledger import FOLDER, Ledger
from omnifed.trust.policy import FILE, sign_policy
from omnifed.trust.proposal import first_policy
from omnifed.trust.signing import SigningKey

SITES = ("north", "east", "south")
EPSILON, LIMIT = 3.0, 4.0
"""Of a campaign, and of the sites' policies: one campaign fits, a second one does not."""


def bound(fed: Federation, site: str) -> None:
    """Signs a policy that bounds what the site's patients may spend."""
    own = fed.state(site) / "identity"
    key = SigningKey.load(own / "site.key")
    first_policy(own, key)
    text = re.sub(r"(?m)^epsilon = \S+", f"epsilon = {LIMIT}", (own / FILE).read_text())
    text = re.sub(r"(?m)^require_dp = \S+", "require_dp = true", text)
    assert f"epsilon = {LIMIT}" in text
    assert "require_dp = true" in text
    (own / FILE).write_text(text)
    sign_policy(own, key)


def models(fed: Federation, site: str) -> dict[str, str]:
    """Hashes of what the site would deploy, by campaign and arm."""
    files = fed.state(site).glob("campaigns/*/arms/*/final.*")
    return {str(path.relative_to(fed.folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_second_campaign_over_the_policys_epsilon_is_refused_and_the_first_model_stays(tmp_path: Path) -> None:
    settings = {
        "aggregation": "private",
        "dp": {"epsilon": EPSILON},
        "student": "omnisegnet:alpha=0.6,beta=0.5,stem_stride=2,norm=group",
        "stages": ["prepare", "train", "evaluate"],
        "batch_size": 6,
    }
    with Federation(tmp_path / "f", SITES, identity=True, images=24, **settings) as fed:
        for site in SITES:
            bound(fed, site)
        fed.start()
        assert fed.server
        assert fed.server.wait(300) == 0
        rounds = [e for e in fed.events() if e["event"] == "aggregate"]
        assert [(e["round"], e["sites"], e["loss"]) for e in rounds] == [(0, 3, {}), (1, 3, {})]
        spent = {site: Ledger(fed.state(site) / FOLDER).releases for site in SITES}
        for site in SITES:
            assert [(r.arm, r.round, r.steps) for r in spent[site]] == [("fedbn", 0, 2), ("fedbn", 1, 2)]
            cost = epsilon(spent[site], spent[site][0].delta)
            assert 0.9 * EPSILON <= cost <= EPSILON
            told = fed.command("omnifed-client", "epsilon", "--site", site, "--state", str(fed.state(site)))
            assert told.returncode == 0
            assert f"epsilon {cost:.2f} at delta" in told.stdout
            assert f"{LIMIT - cost:.2f} of {LIMIT:g} left." in told.stdout
        first = {site: models(fed, site) for site in SITES}
        assert [len(held) for held in first.values()] == [1, 1, 1]

        second, run = fed.folder / "second.toml", fed.folder / "second"
        second.write_text(toml({**fed.settings, "name": "second"}))
        fed.start_server("--federation", str(second), "--out", str(run))
        assert fed.server.wait(300) != 0
        misses = [e for e in read_events(run / "events.jsonl") if e["event"] == "miss"]
        assert {(e["site"], e["code"]) for e in misses} == {(site, "OF852") for site in SITES}
        fed.stop_clients()
        assert fed.left_behind() == []
        assert {site: Ledger(fed.state(site) / FOLDER).releases for site in SITES} == spent
        assert {site: models(fed, site) for site in SITES} == first
