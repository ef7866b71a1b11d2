"""`omnifed-client doctor`: everything that can go wrong before joining, each with its remedy."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from omnifed_client import checks, state_checks
from omnifed_client.checks import Finding
from omnifed_client.config import ClientConfig
from omnifed_client.data_checks import check_data
from omnifed_client.identity_checks import check_identity
from omnifed_client.network_checks import check_network

LIMIT_S = 30.0
Check = Callable[[ClientConfig], "Finding | list[Finding]"]
CHECKS: dict[str, Check] = {
    "versions": checks.check_versions,
    "identity": check_identity,
    "network": check_network,
    "disk": state_checks.check_disk,
    "memory": checks.check_memory,
    "state folder": state_checks.check_state,
    "earlier state": state_checks.check_stamp,
    "policy": state_checks.check_policy,
    "audit log": state_checks.check_audit,
    "ports": checks.check_ports,
    "device": checks.check_device,
    "data": check_data,
}
"""In the order of the table. The next check is a function and its line here."""
_STYLE = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def examine(config: ClientConfig, *, limit_s: float = LIMIT_S, table: dict[str, Check] | None = None) -> list[Finding]:
    """Runs all checks at once. Never raises, and never takes longer than the limit.

    Args:
        config: of the client.
        limit_s: a check that takes longer (a dead network drive, a silent resolver) is a failure of its own.
        table: checks by name; :data:`CHECKS` unless a test says otherwise.

    Returns:
        Findings in the order of the table.
    """
    table = table or CHECKS
    answers: dict[str, list[Finding]] = {}
    end = time.monotonic() + limit_s
    # Daemons: a read from a dead network drive cannot be broken off, and must not keep the command from ending.
    threads = [
        threading.Thread(target=_answer, args=(name, check, config, answers), daemon=True)
        for name, check in table.items()
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    late = f"no answer within {limit_s:g} s"
    remedy = "Look for a network drive, a disk or a name server that hangs, then try again."
    return [finding for name in table for finding in answers.get(name, [Finding(name, "fail", late, remedy, "OF142")])]


def _answer(name: str, check: Check, config: ClientConfig, answers: dict[str, list[Finding]]) -> None:
    try:
        found = check(config)
        answers[name] = [found] if isinstance(found, Finding) else found
    except Exception as error:
        seen = f"the check itself failed: {type(error).__name__}: {error}"
        answers[name] = [Finding(name, "fail", seen, "Report this with the line above.", "OF142")]


def print_findings(findings: Sequence[Finding], console: Console) -> int:
    """Prints the findings as a table.

    Args:
        findings: from :func:`examine`.
        console: where to.

    Returns:
        The exit code: 0 if the site can join, 2 if a finding says that it cannot.
    """
    table = Table("", "what", "seen", "remedy", box=None, pad_edge=False)
    for finding in findings:
        state = Text(finding.state, style=_STYLE[finding.state])
        remedy = Text(finding.remedy)
        if finding.code:
            remedy.append(f" ({finding.code})", style="dim")
        table.add_row(state, Text(finding.name), Text(finding.seen), remedy)
    console.print(table)
    failed = sum(finding.state == "fail" for finding in findings)
    warned = sum(finding.state == "warn" for finding in findings)
    if failed:
        verdict = Text(f"This site cannot join yet: {failed} to resolve. More: docs/errors/CODE.md", style="bold red")
    else:
        verdict = Text("This site can join." + (f" {warned} to look at." if warned else ""), style="green")
    console.print(verdict)
    return 2 if failed else 0
