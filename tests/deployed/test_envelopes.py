"""A federation of real processes with identity: every message in its envelope, each site under its own policy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from harness import Federation

from omnifed.trust.audit import AuditLog
from omnifed.trust.audit_entry import Anchor
from omnifed.trust.identity import SiteIdentity
from omnifed.trust.policy import FILE, sign_policy
from omnifed.trust.proposal import first_policy
from omnifed.trust.signing import SigningKey


def set_policy(fed: Federation, site: str, old: str, new: str) -> None:
    """Changes one line of a site's first policy and signs it."""
    folder = fed.state(site) / "identity"
    key = SiteIdentity.load(folder).key
    first_policy(folder, key)
    text = (folder / FILE).read_text()
    assert old in text
    (folder / FILE).write_text(text.replace(old, new))
    sign_policy(folder, key)


@pytest.mark.slow
def test_what_a_policy_forbids_is_not_done_and_what_is_done_is_in_the_audit_log(tmp_path: Path) -> None:
    with Federation(tmp_path / "f", ("north", "east"), identity=True, quorum=0.5) as fed:
        set_policy(fed, "east", '"evaluate", ', "")
        fed.start()
        assert fed.finish(200) == 0
        assert fed.left_behind() == []
        misses = {(e["site"], e["code"]) for e in fed.events() if e["event"] == "miss"}
        assert misses == {("east", "OF822")}
        for site in fed.sites:
            log = AuditLog.of(fed.state(site), SiteIdentity.load(fed.state(site) / "identity"))
            anchor = Anchor.model_validate_json((fed.run / "audit" / f"{site}.json").read_bytes())
            assert log.verify(anchor) is not None
            entries = log.entries(1000)
            done = [entry.fields["kind"] for entry in entries if entry.what == "finished"]
            assert done.count("fit") == 2
            assert [entry.fields.get("kind") for entry in entries if entry.what == "refused"] == (
                ["evaluate"] if site == "east" else []
            )
            # What left: each reply with its size, and nothing that the coordinator has not got.
            sent = [entry for entry in entries if entry.what == "sent"]
            received = [entry for entry in entries if entry.what == "received"]
            assert len([entry for entry in sent if entry.fields["kind"] != "hello"]) == len(received)
            told = fed.command(
                *("omnifed-client", "audit", "verify", "--site", site, "--state", str(fed.state(site))),
                *("--anchor", str(fed.run / "audit" / f"{site}.json")),
            )
            assert told.returncode == 0, told.stderr

        # A policy that was changed by hand: the client does not start.
        file = fed.state("east") / "identity" / FILE
        file.write_text(file.read_text() + "\n")
        refused = fed.command(
            "omnifed-client", "--site", "east", "--data", str(fed.data("east")), "--state", str(fed.state("east"))
        )
        assert refused.returncode == 2
        assert "OF820" in refused.stderr
        assert "omnifed-client policy sign" in refused.stderr


@pytest.mark.slow
def test_a_coordinator_of_another_federation_gets_nothing_from_a_site(tmp_path: Path) -> None:
    """The site's TLS and node key are in order, the tasks are signed by a key that its roster does not name."""
    with Federation(tmp_path / "f", ("north",), identity=True, wait_s=60) as fed:
        SigningKey.generate().save(fed.coordinator / "sign.key")
        fed.start()
        refused = fed.wait_event(lambda event: event["event"] == "site" and event["state"] == "refused")
        assert (refused["site"], refused["code"]) == ("north", "OF818")
        log = AuditLog.of(fed.state("north"), SiteIdentity.load(fed.state("north") / "identity"))
        assert {entry.what for entry in log.entries(99)} <= {"refused", "sent", "roster"}
        assert not list(fed.state("north").glob("campaigns/*/arms"))
        assert json.loads((fed.run / "audit" / "north.json").read_text())["count"] >= 2
