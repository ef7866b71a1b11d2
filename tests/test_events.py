from __future__ import annotations

import json
from pathlib import Path

from omnifed.events import EventLog


def test_a_line_cut_off_by_a_crash_is_dropped_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "run" / "events.jsonl"
    EventLog(path).add("round", {"dice": 0.5})
    first = path.read_bytes()
    path.write_bytes(first + b'{"time": "2026')
    log = EventLog(path)
    assert path.read_bytes() == first
    log.add("miss", {"site": "a"})
    assert [json.loads(line)["event"] for line in path.read_text().splitlines()] == ["round", "miss"]


def test_opening_a_whole_log_leaves_it_alone(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    EventLog(path).add("a", {})
    before = path.read_bytes(), path.stat().st_mtime_ns
    EventLog(path)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before


def test_a_log_without_one_whole_line_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"torn')
    EventLog(path)
    assert path.read_bytes() == b""
