"""A real endpoint on loopback says what the board knows, number by number."""

from __future__ import annotations

import socket
import sys
import urllib.error
import urllib.request
from typing import Any

import pytest

from omnifed.errors import OmniFedError
from omnifed.serving import serve_metrics
from omnifed_server.board import Board
from omnifed_server.metrics import BoardCollector


def scrape(port: int) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain")
        lines = answer.read().decode().splitlines()
    return {name: float(value) for name, _, value in (x.rpartition(" ") for x in lines if not x.startswith("#"))}


def board() -> Board:
    made = Board(("a", "b"))
    events: list[dict[str, Any]] = [
        {"event": "campaign", "state": "started", "name": "secret patient list"},
        {"event": "site", "site": "a", "state": "working", "task": "fit"},
        {"event": "teach", "site": "a", "dice": 0.9, "bytes_up": 1, "bytes_down": 2},
        {"event": "round", "arm": "omnikd", "round": 0, "site": "a", "dice": 0.5, "bytes_up": 10, "bytes_down": 20},
        {"event": "miss", "arm": "omnikd", "round": 0, "site": "b", "code": "OF502", "rule": "late"},
        {"event": "miss", "arm": "omnikd", "round": 0, "site": "b", "code": "OF502", "rule": "late"},
        {"event": "aggregate", "arm": "omnikd", "round": 0, "seconds": 1.5},
        {"event": "aggregate", "arm": "hidden", "round": 0, "seconds": 1.5, "dice": 0.625},
        {"event": "evaluate", "arm": "omnikd", "site": "a", "which": "adopted", "split": "test", "dice": 0.25},
    ]
    for event in events:
        made.add(event)
    return made


def test_each_figure() -> None:
    made = board()
    with serve_metrics(0, BoardCollector(made)) as server:
        found = scrape(server.port)
        made.add({"event": "aggregate", "arm": "omnikd", "round": 1, "seconds": 2.5})
        later = scrape(server.port)
    assert found['omnifed_rounds_total{arm="omnikd"}'] == 1
    assert found['omnifed_mean_dice{arm="hidden"}'] == 0.625
    assert found['omnifed_site_dice{arm="omnikd",site="a"}'] == 0.5
    assert found['omnifed_site_dice{arm="teacher",site="a"}'] == 0.9
    assert found['omnifed_site_evaluated_dice{arm="omnikd",site="a",split="test",which="adopted"}'] == 0.25
    assert found['omnifed_bytes_total{direction="up",site="a"}'] == 11
    assert found['omnifed_bytes_total{direction="down",site="a"}'] == 22
    assert found['omnifed_bytes_total{direction="up",site="b"}'] == 0
    assert found['omnifed_misses_total{code="OF502",site="b"}'] == 2
    assert found['omnifed_replies_total{arm="omnikd",site="a"}'] == 1
    assert found['omnifed_site_state{site="a",state="working"}'] == 1
    assert found['omnifed_site_state{site="a",state="idle"}'] == 0
    assert found['omnifed_site_state{site="b",state="never seen"}'] == 1
    assert found['omnifed_campaign_state{state="started"}'] == 1
    assert sum(value for name, value in found.items() if name.startswith("omnifed_campaign_state")) == 1
    assert found['omnifed_round_seconds_count{arm="omnikd"}'] == 1
    assert found['omnifed_round_seconds_sum{arm="omnikd"}'] == 1.5
    assert later['omnifed_rounds_total{arm="omnikd"}'] == 2
    assert later['omnifed_round_seconds_sum{arm="omnikd"}'] == 4.0
    assert not any("secret" in name or "late" in name for name in found)


def test_the_figures_of_a_search() -> None:
    made = board()
    trial = {"event": "trial", "stage": "search-weights", "site": "a", "number": 2, "dice": 0.4, "best": 0.75}
    for one in ({**trial, "number": 1, "bytes_up": 5}, trial):
        made.add(one)
    with serve_metrics(0, BoardCollector(made)) as server:
        found = scrape(server.port)
    assert found['omnifed_search_trials_total{stage="search-weights"}'] == 2
    assert found['omnifed_search_best_dice{stage="search-weights"}'] == 0.75
    assert found['omnifed_replies_total{arm="search-weights",site="a"}'] == 2
    assert found['omnifed_site_dice{arm="search-weights",site="a"}'] == 0.4
    assert found['omnifed_bytes_total{direction="up",site="a"}'] == 16


def test_a_closed_server_frees_its_port() -> None:
    server = serve_metrics(0, BoardCollector(Board()))
    server.close()
    server.close()
    with pytest.raises(urllib.error.URLError):
        scrape(server.port)
    serve_metrics(server.port, BoardCollector(Board())).close()


@pytest.mark.parametrize("listening", [True, False])
def test_a_port_that_is_taken_or_impossible_is_named_with_its_remedy(listening: bool) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1] if listening else 70000
        with pytest.raises(OmniFedError) as caught:
            serve_metrics(port, BoardCollector(Board()))
    assert caught.value.code == "OF540"
    assert str(port) in caught.value.seen
    assert "metrics_port" in caught.value.remedy


def test_without_the_package_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(OmniFedError, match="pip install prometheus-client") as caught:
        BoardCollector(Board())
    assert caught.value.code == "OF541"
