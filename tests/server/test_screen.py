"""A pipe gets one plain line an event; what happened before is known and not shown again."""

from __future__ import annotations

import io
import json
from pathlib import Path

from rich.console import Console

from omnifed.events import EventLog
from omnifed_server.federation_file import FederationConfig
from omnifed_server.screen import open_screen

BEFORE = [{"event": "campaign", "state": "started", "name": "lungs"}, {"event": "stage", "stage": "omnikd", "total": 4}]


def test_a_pipe_gets_new_lines_only_and_the_curves_all_of_them(tmp_path: Path) -> None:
    path, out = tmp_path / "events.jsonl", io.StringIO()
    path.write_text("".join(json.dumps(one) + "\n" for one in BEFORE))
    settings = FederationConfig(name="lungs", sites=("north",), arms=("omnikd",))
    with open_screen(settings, tmp_path, lines=True, console=Console(file=out, width=40)) as screen:
        log = EventLog(path)
        log.add("round", {"arm": "omnikd", "round": 0, "site": "north", "dice": 0.5, "seconds": 2, "bytes_up": 3 << 20})
        screen.tick()
        screen.say("[bold] is not markup")
        log.add("campaign", {"state": "finished", "name": "lungs"})
    shown = out.getvalue().splitlines()
    assert [line.split("Z ")[-1] for line in shown] == [
        "north: omnikd round 1 Dice 0.500, 2.0 s, 3.00 MiB up",
        "[bold] is not markup",
        "campaign lungs: finished",  # written after the last look, shown at the end
    ]
    assert screen.board.ended
