"""The coordinator's Flower application: runs the campaign of the folder that its supervisor names."""

from __future__ import annotations

import os
import traceback
from dataclasses import replace
from functools import partial
from pathlib import Path

from omnifed.errors import OmniFedError
from omnifed.events import EventLog
from omnifed.files import write_json
from omnifed.processes import alone
from omnifed.transport.apps import server_app
from omnifed.transport.coordinator_seal import CoordinatorSeal
from omnifed.transport.flower_compat import Grid
from omnifed.transport.membership import IDENTITY
from omnifed.transport.patience import DEPLOYED, Pace
from omnifed.transport.pool import TaskPool
from omnifed.trust.audit_entry import Anchor
from omnifed.trust.identity import CoordinatorIdentity
from omnifed_server.app_files import CONFIG, EVENTS, LOCK, OUTCOME, PROCESS, RUN
from omnifed_server.federation_file import FederationConfig

AUDIT = "audit"
"""Folder in RUN: where each site's audit log stood last."""


def main(grid: Grid) -> None:
    """Runs the campaign from where its folder stands; how it ended is in ``outcome.json``."""
    folder = Path(os.environ[RUN])
    with alone(folder / LOCK, "the campaign"):
        write_json(folder / PROCESS, {"pid": os.getpid()})
        _run(grid, folder)


def _run(grid: Grid, folder: Path) -> None:
    from omnifed_server.campaign import run_campaign

    config = FederationConfig.model_validate_json((folder / CONFIG).read_bytes())
    events = EventLog(folder / EVENTS)
    pool = TaskPool(
        grid,
        patience=replace(DEPLOYED, wait_s=config.wait_s),
        pace=Pace(),
        on_site=lambda site, state, fields: events.add("site", {"site": site, "state": state, **fields}),
        seal=None if config.insecure else _seal(folder),
    )
    try:
        run_campaign(pool, config, folder, events.add)
        outcome = {"state": "finished", "code": "", "message": ""}
    except OmniFedError as error:
        outcome = {"state": "failed", "code": error.code, "message": str(error)}
    except Exception as error:
        # The supervisor sees no traceback of this process, and Flower's log would hold only the type.
        traceback.print_exc()
        outcome = {"state": "failed", "code": "", "message": f"{type(error).__name__}: {error}"}
    write_json(folder / OUTCOME, outcome)


def _seal(folder: Path) -> CoordinatorSeal:
    return CoordinatorSeal(CoordinatorIdentity.load(Path(os.environ[IDENTITY])), partial(keep_anchor, folder / AUDIT))


def keep_anchor(folder: Path, site: str, anchor: Anchor) -> None:
    """Keeps where a site's audit log stood last (SITE.json): with it the site can show that it was not rolled back.

    Args:
        folder: of the anchors.
        site: registered name.
        anchor: as it came with a reply. Replies overtake each other; the highest count stays.
    """
    file = folder / f"{site}.json"
    if not file.is_file() or Anchor.model_validate_json(file.read_bytes()).count < anchor.count:
        write_json(file, anchor.model_dump())


app = server_app(main)
