"""kill -9 of every process of a deployed federation, in every stage: it finishes, in the same weights bit for bit."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness import Event, Federation, Wire, wait
from reference import References

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

STAGES = ["prepare", "teach", "train", "evaluate", "export"]
FULL: dict[str, Any] = {"arms": ["omnikd"], "stages": STAGES}
KINDS = ("teach", "fit", "evaluate", "export")


def check(federation: Federation, references: References, seconds: float = 240.0) -> None:
    """The end of every test: finished, nothing left behind, nothing counted twice, the undisturbed result."""
    assert federation.finish(seconds) == 0
    assert federation.left_behind() == []
    federation.check_counts()
    final, undisturbed = federation.final(), references.of(federation)
    assert sorted(final) == sorted(undisturbed)
    assert [name for name in final if final[name] != undisturbed[name]] == []


def begins(federation: Federation, site: str, kind: str, after: int = 0) -> None:
    """Waits until a site is at work."""

    def matches(event: Event) -> bool:
        return event.get("state") == "started" and event.get("kind") == kind

    federation.wait_event(matches, 120, site=site, after=after)


def at_work(kind: str) -> Callable[[Event], bool]:
    """The event of a site that gets a task of a kind."""
    return lambda event: event.get("state") == "working" and event.get("task") == kind


def loss(site: str) -> Callable[[Event], bool]:
    """The event by which the coordinator is told that a site was lost, and why."""
    return lambda e: e["event"] == "site" and e["site"] == site and e["state"] == "lost" and e["code"] == "OF506"


def miss(site: str, code: str) -> Callable[[Event], bool]:
    """The event of a task that failed at a site."""
    return lambda event: event["event"] == "miss" and event["site"] == site and event["code"] == code


def test_processes_and_network_change_no_bit(tmp_path: Path, references: References) -> None:
    with Federation(tmp_path, **FULL) as federation:
        federation.start()
        check(federation, references)
        assert not [event for event in federation.events() if event["event"] == "miss"]


def test_client_is_killed_in_each_stage(tmp_path: Path, references: References) -> None:
    with Federation(tmp_path, **FULL) as federation:
        federation.start_server()
        federation.start_client("east")
        federation.start_client("north")
        federation.wait_pid("prepare", "north")
        for kind in ("", *KINDS):
            if kind:
                begins(federation, "north", kind, after=len(federation.site_events("north")))
            told = len(federation.events())
            federation.kill("client", "north")
            # Its programs end by themselves: two workers on one state must never be.
            wait(lambda: not any(p.site == "north" for p in federation.processes()), 15, "the end of a site")
            federation.start_client("north")
            if kind:
                federation.wait_event(loss("north"), after=told)
        check(federation, references)


@pytest.mark.parametrize("role", ["worker", "task", "superexec", "clientapp", "supernode"])
def test_a_program_of_a_site_is_killed_at_work(role: str, tmp_path: Path, references: References) -> None:
    with Federation(tmp_path, rounds=2) as federation:
        federation.start()
        begins(federation, "north", "fit")
        told, killed = len(federation.events()), federation.kill(role, "north")
        if role in ("worker", "task", "superexec", "clientapp"):
            code = {"worker": "OF517", "task": "OF517"}.get(role, "OF506")
            federation.wait_event(lambda e: miss("north", code)(e) or loss("north")(e), 120, after=told)
        else:
            federation.wait_event(loss("north"), 120, after=told)
        assert killed not in federation.pids(role, "north")
        check(federation, references)


def test_supernode_is_killed_while_it_sends_a_reply(tmp_path: Path, references: References) -> None:
    with Federation(tmp_path, rounds=2) as federation:
        federation.start_server()
        wire = Wire(federation.port)
        wire.bytes_per_s = 1e6
        federation.start_client("north", server=f"127.0.0.1:{wire.port}")
        federation.start_client("east")
        wait(lambda: wire.up > 2_500_000, 120, "the upload")  # of 5.7 MB; what came before were some kB
        told = len(federation.events())
        federation.kill("supernode", "north")
        wire.cut()  # else the kernel would deliver what the killed one had written
        assert wire.up < 5_000_000
        assert not [e for e in federation.events() if e["event"] == "round" and e["site"] == "north"]
        wire.bytes_per_s = 0.0
        # The coordinator waits up to four minutes for the rest of a reply that was announced.
        federation.wait_event(loss("north"), 300, after=told)
        check(federation, references)
        fits = [e for e in federation.site_events("north") if e.get("kind") == "fit"]
        assert [e["state"] for e in fits].count("finished") == 2  # the lost reply was sent again, not computed again
        assert [e["state"] for e in fits].count("again") == 1


def test_server_is_killed_in_each_stage(tmp_path: Path, references: References) -> None:
    with Federation(tmp_path, **FULL) as federation:
        federation.start()
        moments: list[Callable[[Event], bool]] = [lambda e: e.get("stage") == "prepare", *map(at_work, KINDS)]
        told = 0
        for number, moment in enumerate(moments):
            federation.wait_event(moment, 120, after=told)
            federation.kill("server")
            told = len(federation.events())
            assert federation.server
            federation.server.wait(5)
            # At once, as systemd would, while the killed one's programs are still ending.
            federation.start_server(*(("resume", str(federation.run)) if number % 2 else ()))
            federation.wait_event(lambda event: event.get("state") == "resumed", 120, after=told)
            told = len(federation.events())
        check(federation, references)
        told_states = [e["state"] for e in federation.events() if e["event"] == "campaign"]
        states = [state for state in told_states if state != "waiting"]
        assert states == ["started", *["resumed"] * len(moments), "finished"]


def test_a_campaign_does_not_need_what_has_started_it(tmp_path: Path, references: References) -> None:
    with Federation(tmp_path, rounds=1) as federation:
        federation.start()
        begins(federation, "north", "fit")
        federation.kill("server-exec")
        check(federation, references)


@pytest.mark.parametrize("role", ["superlink", "serverapp"])
def test_a_program_of_the_coordinator_is_killed_at_work(role: str, tmp_path: Path, references: References) -> None:
    with Federation(tmp_path, rounds=2) as federation:
        federation.start()
        for round_ in range(2):
            federation.wait_event(lambda e, r=round_: e["event"] == "round" and e["round"] == r)
            federation.kill(role)
            wait(lambda n=round_ + 1: federation.log("server").count("taken up again") == n, 60, "a line for the user")
        check(federation, references)


@pytest.mark.parametrize(("sig", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_end_everything_in_order(sig: int, status: int, tmp_path: Path, references: References) -> None:
    with Federation(tmp_path, rounds=2) as federation:
        federation.start()
        begins(federation, "north", "fit")
        started = time.monotonic()
        processes = [federation.server, *federation.clients.values()]
        for process in processes:
            assert process
            process.send_signal(sig)
        assert [process.wait(15) for process in processes if process] == [status] * 3
        assert federation.left_behind(15 - (time.monotonic() - started)) == []
        assert "omnifed-server resume" in federation.log("server")
        federation.start_server("resume", str(federation.run))
        for site in federation.sites:
            federation.start_client(site)
        check(federation, references)


def test_stop_status_and_resume(tmp_path: Path, references: References) -> None:
    with Federation(tmp_path, rounds=2) as federation:
        run = str(federation.run)
        federation.start()
        federation.wait_event(lambda event: event["event"] == "round")
        status = federation.command("omnifed-server", "status", run)
        assert status.returncode == 0
        assert "north" in status.stdout
        assert f"runs as process {federation.pids('server')[0]}" in status.stdout
        assert federation.command("omnifed-server", "stop", run).returncode == 0
        assert federation.server
        assert federation.server.wait(1) == 143
        assert "no coordinator runs" in federation.command("omnifed-server", "status", run).stdout
        again = federation.command("omnifed-server", "stop", run)
        assert (again.returncode, again.stdout.strip()) == (0, "no coordinator runs there")
        federation.start_server("resume", run)
        check(federation, references)


def test_only_one_may_work_in_a_folder_or_on_a_port(tmp_path: Path) -> None:
    with Federation(tmp_path) as federation:
        federation.start()
        federation.wait_event(lambda event: event.get("state") == "working")
        arguments = ("--federation", str(federation.file))
        second = federation.command("omnifed-server", *arguments, "--out", str(federation.run))
        assert (second.returncode, "OF552" in second.stderr) == (2, True)
        taken = federation.command("omnifed-server", *arguments, "--out", str(tmp_path / "other"))
        assert (taken.returncode, "OF554" in taken.stderr) == (2, True)
        client = federation.command(
            *("omnifed-client", "--site", "north", "--data", str(federation.data("north"))),
            *("--state", str(federation.state("north")), "--server", f"127.0.0.1:{federation.port}", "--insecure"),
        )
        assert (client.returncode, "OF552" in client.stderr) == (2, True)
        assert federation.finish() == 0  # the first ones were not disturbed
        assert federation.left_behind() == []
        federation.check_counts()


def test_a_client_that_comes_once_leaves_after_one_task(tmp_path: Path, references: References) -> None:
    with Federation(tmp_path, rounds=1) as federation:
        federation.start_server()
        federation.start_client("east")
        for _ in range(3):  # fit, adopt, test
            assert federation.start_client("north", "--once").wait(120) == 0
            assert not [process for process in federation.processes() if process.site == "north"]
        check(federation, references)
        done = [e["kind"] for e in federation.site_events("north") if e.get("state") == "finished"]
        assert done == ["fit", "evaluate", "evaluate"]
