"""`omnifed-client epsilon`: what this site's patients have spent of their privacy, and what is left."""

from __future__ import annotations

import typer
from rich.console import Console
from rich.table import Table

from omnifed.privacy.dp.ledger import FOLDER, Ledger, Release
from omnifed.privacy.spec import DPSpec
from omnifed.trust.policy import FILE, load_policy
from omnifed_client.identity_cli import Site, State, identity_folder

commands = typer.Typer()
"""Merged into ``omnifed-client``."""


@commands.command()
def epsilon(site: Site = "", state: State = None) -> None:
    """Says what was spent on which campaign, and what the site's policy leaves (docs/differential-privacy.md).

    Example: `omnifed-client epsilon --site ct`
    """
    folder = identity_folder(site, state)
    ledger, console = Ledger(folder.parent / FOLDER), Console(highlight=False, soft_wrap=True)
    if not ledger.releases:
        console.print("Nothing was spent: no round was trained with differential privacy here.")
        return
    console.print(_table(ledger.releases))
    limit = load_policy(folder).epsilon if (folder / FILE).is_file() else 0.0
    console.print(_total(ledger.of_newest(), limit))


def _table(releases: tuple[Release, ...]) -> Table:
    from omnifed.privacy.dp import accounting

    arms: dict[tuple[str, str], list[Release]] = {}
    for release in releases:
        arms.setdefault((release.campaign, release.arm), []).append(release)
    table = Table(
        "campaign", "arm", "rounds", "steps", "patients", "noise", "epsilon", "delta", box=None, pad_edge=False
    )
    for (campaign, arm), rounds in arms.items():
        delta = min(r.delta for r in rounds)
        table.add_row(
            campaign,
            arm,
            str(len({r.round for r in rounds})),
            str(sum(r.steps for r in rounds)),
            str(max(r.count for r in rounds)),
            f"{rounds[-1].sigma:.3g}",
            f"{accounting.epsilon(rounds, delta):.2f}",
            f"{delta:.2g}",
        )
    return table


def _total(releases: tuple[Release, ...], limit: float) -> str:
    from omnifed.privacy.dp import accounting

    count = releases[-1].count
    delta = DPSpec().delta_of(count)
    spent = accounting.epsilon(releases, delta)
    said = f"All campaigns of the {count} patients who trained last: epsilon {spent:.2f} at delta {delta:.2g}"
    return f"{said}, {max(0.0, limit - spent):.2f} of {limit:g} left." if limit else f"{said}; no policy bounds it."
