"""A site's board, its view and its metrics, from the files that its worker writes."""

from __future__ import annotations

import io
import json
import urllib.request
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from omnifed.errors import OmniFedError
from omnifed.events import EventLog
from omnifed.serving import serve_metrics
from omnifed_client.config import ClientConfig
from omnifed_client.metrics import SiteCollector
from omnifed_client.site_board import SiteBoard
from omnifed_client.view import lines, open_screen, render


def write(state: Path, **status: Any) -> None:
    log = EventLog(state / "events.jsonl")
    log.add("task", {"kind": "fit", "id": "c.omnikd.fit.0.a", "state": "started"})
    log.add("task", {"kind": "fit", "id": "c.omnikd.fit.0.a", "state": "finished", "seconds": 2.5})
    log.add("task", {"kind": "fit", "id": "c.omnikd.fit.1.a", "state": "finished", "seconds": 1.5})
    log.add("task", {"kind": "teach", "id": "c.teach.a", "state": "failed", "code": "OF401", "rule": "Finite."})
    log.add("other", {"kind": "fit", "state": "finished"})
    started = "2026-01-02T03:04:05+00:00"
    base = {"task": "fit", "id": "x", "done": 3, "total": 4, "text": "loss 0.5", "started": started}
    (state / "status.json").write_text(json.dumps(base | status))


def scrape(port: int) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return {name: float(value) for name, _, value in (x.rpartition(" ") for x in lines if not x.startswith("#"))}


def test_each_figure_of_a_site(tmp_path: Path) -> None:
    board = SiteBoard("a", tmp_path)
    with serve_metrics(0, SiteCollector(board)) as server:
        assert scrape(server.port) == {'omnifed_client_connected{site="a"}': 0}
        write(tmp_path)
        board.refresh()
        board.connect("connected")
        assert scrape(server.port) == {
            'omnifed_client_connected{site="a"}': 1,
            'omnifed_client_tasks_total{kind="fit",state="finished"}': 2,
            'omnifed_client_tasks_total{kind="fit",state="started"}': 1,
            'omnifed_client_tasks_total{kind="teach",state="failed"}': 1,
            'omnifed_client_task_seconds_count{kind="fit"}': 2,
            'omnifed_client_task_seconds_sum{kind="fit"}': 4.0,
            'omnifed_client_task_progress{kind="fit"}': 0.75,
        }


@pytest.mark.parametrize("content", ["", "{", "[]", '{"task": "fit"}', '{"task": "", "text": "", "done": "x"}'])
def test_a_status_that_is_absent_torn_or_odd_means_no_task(tmp_path: Path, content: str) -> None:
    if content:
        (tmp_path / "status.json").write_text(content)
    board = SiteBoard("a", tmp_path)
    board.refresh()
    assert (board.task, board.done, board.total) == ("", 0, 0)


def test_the_view_shows_connection_progress_last_tasks_and_causes(tmp_path: Path) -> None:
    write(tmp_path)
    board = SiteBoard("a", tmp_path, "fed.example.org:443")
    board.refresh()
    board.connect("away", "OF501: No answer.\x1b[2J")
    console = Console(width=80, file=io.StringIO())
    console.print(render(board, datetime(2026, 1, 2, 3, 4, 17, tzinfo=UTC)))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, shown.splitlines())) <= 80
    assert "\x1b" not in shown
    for part in ("Site a  away  fed.example.org:443", "OF501: No answer.", "3/4 12 s loss 0.5", "OF401: Finite."):
        assert part in shown
    fit = next(line.split() for line in shown.splitlines() if "fit.1" in line)
    assert fit[1:] == ["fit", "omnikd.fit.1", "finished", "1.5"]


def test_plain_lines() -> None:
    done = {"event": "task", "kind": "fit", "id": "c.0", "state": "finished", "seconds": 2.5}
    assert lines(done) == "fit c.0: finished in 2.5 s"
    assert lines(done | {"state": "again"}) == "fit c.0: sent again"
    assert lines(done | {"state": "failed", "code": "OF401", "rule": "R."}) == "fit c.0: failed (OF401: R.)"
    assert lines({"event": "other"}) is None


def test_a_pipe_gets_new_tasks_only_and_the_metrics_port_is_served_and_freed(tmp_path: Path) -> None:
    write(tmp_path)
    with serve_metrics(0, SiteCollector(SiteBoard("x", tmp_path))) as probe:
        port = probe.port
        taken = ClientConfig(site="a", data=tmp_path, state=tmp_path, metrics_port=port)
        with pytest.raises(OmniFedError) as caught, open_screen(taken):
            pass
        assert caught.value.code == "OF540"
    out = io.StringIO()
    with open_screen(taken, Console(file=out, width=40)) as screen:
        screen.tick(SimpleNamespace(connected=None))
        assert screen.board.connection == "starting"
        EventLog(tmp_path / "events.jsonl").add("task", {"kind": "fit", "id": "n", "state": "again"})
        screen.tick(SimpleNamespace(connected=True))
        assert scrape(port)['omnifed_client_connected{site="a"}'] == 1
        screen.tick(SimpleNamespace(connected=False))
        assert screen.board.connection == "away"
    assert [line.split("Z ")[-1] for line in out.getvalue().splitlines()] == ["fit n: sent again"]
