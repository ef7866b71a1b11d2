"""Real processes that know each other: TLS, signatures of nodes, and a roster that changes while a campaign runs."""

from __future__ import annotations

import shutil
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from harness import Federation, make_site, wait
from twin import difference, twin

from omnifed.trust.authority import admit, found, rotate
from omnifed.trust.enrolment import enrol, join
from omnifed.trust.identity import CoordinatorIdentity, SiteIdentity


def test_a_campaign_with_identity_ends_with_the_same_bytes_as_one_without(tmp_path: Path) -> None:
    with Federation(tmp_path / "f", identity=True, stages=["prepare", "train"], rounds=1) as fed:
        fed.tell_counts()
        fed.start()
        assert fed.finish(200) == 0
        assert fed.left_behind() == []
        fed.check_counts()
        assert difference(fed.final(), twin(fed)) == []


@contextmanager
def another_coordinator(folder: Path) -> Iterator[int]:
    """A port with the certificate of another federation."""
    found(folder, "test", "127.0.0.1:8000")
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem", folder / "server.key")
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    server.handle_error = lambda *about: None  # type: ignore[method-assign]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_who_does_not_belong_is_refused_each_with_its_own_number(tmp_path: Path) -> None:
    codes = {"unknown": "OF810", "revoked": "OF811", "expired": "OF812", "strange": "OF813"}
    fed = Federation(
        tmp_path / "f", ("north", *codes), identity=True, admitted=["north", "revoked", "strange"], rounds=1
    )
    # Admitted by the same authority, but at a copy of the coordinator's folder: the one that runs knows nothing of it.
    copy, own = tmp_path / "copy", fed.state("unknown") / "identity"
    shutil.copytree(fed.coordinator, copy)
    join(own, admit(copy, enrol(own, "unknown")))
    past, own = datetime.now(UTC) - timedelta(days=366), fed.state("expired") / "identity"
    join(own, admit(fed.coordinator, enrol(own, "expired", now=past), now=past), now=past)
    fed.admit("north")  # a roster of today
    with fed, another_coordinator(tmp_path / "other") as strange:
        fed.start_server()
        fed.start_client("north")
        fed.wait_event(lambda e: e["event"] == "site" and e["site"] == "north" and e["state"] == "joined")
        fed.revoke("revoked")
        for site in codes:
            fed.start_client(site, server=f"127.0.0.1:{strange}" if site == "strange" else "")
        ends = {site: fed.clients[site].wait(120) for site in codes}
        assert ends == dict.fromkeys(codes, 2)
        for site, code in codes.items():
            log = fed.log(f"client-{site}")
            assert f"docs/errors/{code}.md" in log
            assert "Remedy:" in log
            assert not [other for other in codes.values() if other != code and f"docs/errors/{other}" in log]
            reach = fed.reach(f"127.0.0.1:{strange}" if site == "strange" else "")
            where = ("--data", str(fed.data(site)), "--state", str(fed.state(site)), *reach)
            doctor = fed.command("omnifed-client", "doctor", "--site", site, *where)
            assert (doctor.returncode, code in doctor.stdout) == (2, True), doctor.stdout
        assert {e["site"] for e in fed.events() if e["event"] == "site"} == {"north"}
        assert fed.pids("supernode", "north")


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_a_site_is_admitted_and_another_revoked_while_the_campaign_runs(tmp_path: Path) -> None:
    sites = ("north", "east", "late")
    with Federation(tmp_path / "f", sites, identity=True, admitted=sites[:2], quorum=2.0, rounds=12, steps=6) as fed:
        fed.start_server()
        for site in sites[:2]:
            fed.start_client(site)
        assert fed.start_client("late").wait(60) == 2
        assert "OF804" in fed.log("client-late")
        fed.wait_event(lambda e: e["event"] == "aggregate")
        pids = [fed.pids("superlink"), fed.pids("supernode", "north")]
        fed.admit("late")
        fed.start_client("late")
        fed.wait_event(lambda e: e["event"] == "round" and e["site"] == "late", 120)
        told = len(fed.events())
        fed.revoke("east")
        fed.wait_event(lambda e: e["event"] == "site" and e["site"] == "east" and e["state"] == "lost", 60, after=told)
        assert fed.clients["east"].wait(90) == 2
        assert "OF811" in fed.log("client-east")
        rotate(fed.coordinator, at_once=True)
        assert [fed.pids("superlink"), fed.pids("supernode", "north")] == pids, "nobody else was touched"
        assert fed.finish(300) == 0
        assert fed.left_behind() == []
        counted = fed.counted()
        last = max(round_ for _, round_, _ in counted)
        assert ("fedbn", last, "late") in counted
        assert ("fedbn", last, "east") not in counted
        assert max(counted.values()) == 1
        # The stolen key has ended at the sites, and nobody was restarted for it.
        keys = SiteIdentity.load(fed.state("north") / "identity").roster().coordinator_keys()
        assert keys == (CoordinatorIdentity.load(fed.coordinator).key.public,)


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_killed_ends_find_each_other_again(tmp_path: Path) -> None:
    with Federation(tmp_path / "f", identity=True, rounds=4) as fed:
        fed.tell_counts()
        fed.start()
        fed.wait_event(lambda e: e["event"] == "round")
        told = len(fed.events())
        fed.kill("supernode", "north")
        # At once: the old node's key is not kept from it for the minute in which Flower would think it alive.
        fed.wait_event(
            lambda e: e["event"] == "site" and e["site"] == "north" and e["state"] == "joined", 45, after=told
        )
        fed.wait_event(lambda e: e["event"] == "aggregate" and e["round"] == 1, 120)
        fed.kill("server")
        assert fed.server
        fed.server.wait(5)
        told = len(fed.events())
        fed.start_server("resume", str(fed.run))
        fed.wait_event(lambda e: e.get("state") == "resumed", 90, after=told)
        assert fed.finish(240) == 0
        assert fed.left_behind() == []
        fed.check_counts()
        assert difference(fed.final(), twin(fed)) == []


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_one_state_folder_on_two_machines_is_not_two_sites(tmp_path: Path) -> None:
    with Federation(tmp_path / "f", ("north", "east"), identity=True, rounds=2, quorum=2.0) as fed:
        fed.start_server()
        fed.start_client("north")
        fed.wait_event(lambda e: e["event"] == "site" and e["site"] == "north" and e["state"] == "joined")
        twin_state, data = tmp_path / "twin-state", make_site(tmp_path / "twin", "north")
        shutil.copytree(fed.state("north") / "identity", twin_state / "identity")
        command = ["omnifed-client", "--site", "north", "--data", str(data), "--state", str(twin_state)]
        second = fed._start("client-second.log", command, {})
        wait(lambda: "the connection ended" in fed.log("client-north"), 60, "the end of the first")
        second.terminate()
        second.wait(20)
        fed.start_client("east")
        assert fed.finish(240) == 0
        fed.check_counts()
