"""Real files: torn at every byte, flipped at any byte, held twice, full; and the remedies of the messages, followed."""

from __future__ import annotations

import logging
import re
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from omnifed.errors import OmniFedError
from omnifed.search.journal import FORMAT, Journal, _line

STUDY = {"seed": 7, "steps": 20}
CLOCK = lambda: 5.0  # noqa: E731


def written(path: Path, events: int = 4, study: dict | None = None) -> bytes:
    with Journal(path, study or STUDY, CLOCK) as journal:
        for number in range(events):
            journal.append({"event": "told", "value": number / 3})
    return path.read_bytes()


def values(path: Path) -> list[float]:
    with Journal(path, STUDY, CLOCK) as journal:
        return [event["value"] for event in journal.events() if event["event"] == "told"]


def refused(path: Path, study: dict | None = None) -> OmniFedError:
    with pytest.raises(OmniFedError) as caught:
        Journal(path, study or STUDY, CLOCK)
    return caught.value


def follow(error: OmniFedError) -> None:
    """Runs the command that the remedy names."""
    found = re.search(r"LC_ALL=C sed .*(?= - )", error.remedy)
    assert found, error
    subprocess.run(["bash", "-c", found[0]], check=True, timeout=10)


def repaired(path: Path) -> tuple[list[float], int]:
    """Follows remedies until the journal opens: what it holds, and how many were needed."""
    for tries in range(6):
        try:
            return values(path), tries
        except OmniFedError as error:
            follow(error)
    raise AssertionError("the remedies did not help")


def test_events_come_back_in_order_with_numbers_and_times(tmp_path: Path) -> None:
    times = iter([1.5, 2.25])
    with Journal(tmp_path / "new" / "j.jsonl", STUDY, lambda: next(times)) as journal:
        journal.append({"event": "told", "value": 0.1 + 0.2})
    with Journal(tmp_path / "new" / "j.jsonl", STUDY, CLOCK) as journal:
        first, second, third = journal.events()
    assert (first["event"], first["n"], first["time"]) == ("opened", 1, 1.5)
    assert second == {"n": 2, "time": 2.25, "event": "told", "value": 0.1 + 0.2}
    assert (third["event"], third["n"], third["time"]) == ("opened", 3, 5.0)


def test_a_line_is_json_whose_check_sum_starts_from_the_description(tmp_path: Path) -> None:
    written(tmp_path / "j.jsonl", 1)
    head, _, told = (tmp_path / "j.jsonl").read_bytes().splitlines(keepends=True)
    assert head.startswith(b'{"n":0,"event":"study","format":1,"study":{"seed":7,"steps":20},"check":"')
    assert told.startswith(b'{"n":2,"time":5.0,"event":"told","value":0.0,"check":"')
    other = written(tmp_path / "k.jsonl", 1, {"seed": 8, "steps": 20}).splitlines(keepends=True)
    assert other[2][:-12] == told[:-12]
    assert other[2] != told


def test_the_order_of_the_settings_does_not_matter_and_tuples_are_lists(tmp_path: Path) -> None:
    Journal(tmp_path / "j", {"a": (1, 2), "b": {"x": 1, "y": 2}}).close()
    Journal(tmp_path / "j", {"b": {"y": 2, "x": 1}, "a": [1, 2]}).close()


def test_other_settings_are_refused_by_name_and_nothing_is_written(tmp_path: Path) -> None:
    path = tmp_path / "j"
    before = written(path, 1, {"steps": 20, "targets": [{"name": "pi", "ms": 80}], "old": 1})
    error = refused(path, {"steps": 20, "targets": [{"name": "pi", "ms": 90}], "new": "x"})
    assert error.code == "OF731"
    assert error.seen == (
        f'{path}: new: not set there, "x" here; old: 1 there, not set here; targets.0.ms: 80 there, 90 here'
    )
    assert path.read_bytes() == before


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "j"
    path.write_bytes(_line({"n": 0, "event": "study", "format": FORMAT + 1, "study": STUDY}, 0))
    assert refused(path).code == "OF732"


def test_nan_and_a_closed_journal_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    path = tmp_path / "j"
    with Journal(path, STUDY, CLOCK) as journal:
        before = path.read_bytes()
        with pytest.raises(ValueError, match="not JSON compliant"):
            journal.append({"event": "told", "value": float("nan")})
        assert path.read_bytes() == before
        journal.append({"event": "told", "value": 1.0})
    with pytest.raises(ValueError, match="closed"):
        journal.append({"event": "told", "value": 2.0})
    assert values(path) == [1.0]


def test_torn_at_every_byte_only_the_unfinished_line_is_lost(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "j"
    data = written(path, 2)
    ends = [i + 1 for i, byte in enumerate(data) if byte == ord("\n")]
    for cut in range(len(data) + 1):
        path.write_bytes(data[:cut])
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert values(path) == [0.0, 1 / 3][: max(0, sum(end <= cut for end in ends) - 2)]
        assert bool(caplog.records) == (cut not in {0, *ends}), "a loss is logged"
        with Journal(path, STUDY, CLOCK) as journal:  # and what is written then is whole
            assert journal.events()[-1]["n"] == len(journal.events())


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), mask=st.integers(1, 255))
def test_one_flipped_byte_anywhere_is_noticed_and_the_remedy_saves_all_other_lines(
    tmp_path: Path, place: float, mask: int
) -> None:
    path = tmp_path / "j"
    path.unlink(missing_ok=True)
    data = bytearray(written(path, 3))
    data[int(place * len(data))] ^= mask
    path.write_bytes(data)
    error = refused(path)
    assert error.code == "OF730"
    assert path.read_bytes() == data, "a refused journal is left alone"
    left, tries = repaired(path)
    assert 1 <= tries <= 2, "a line break that came to be makes two damaged lines of one"
    assert left == [value for value in (0.0, 1 / 3, 2 / 3) if value in left]
    assert len(left) >= (2 if data.count(b"\n") >= 5 else 1), "a line break that is gone joins two lines"


@pytest.mark.parametrize("damaged", range(5))
def test_each_damaged_line_costs_itself_alone(tmp_path: Path, damaged: int) -> None:
    path = tmp_path / "j"
    lines = written(path, 3).splitlines(keepends=True)
    lines[damaged] = lines[damaged].replace(b'"event"', b'"evens"', 1)
    path.write_bytes(b"".join(lines))
    error = refused(path)
    assert f"line {damaged + 1}:" in error.seen
    follow(error)
    assert values(path) == [value for line, value in ((2, 0.0), (3, 1 / 3), (4, 2 / 3)) if line != damaged]
    with Journal(path, STUDY, CLOCK) as journal:
        journal.append({"event": "told", "value": 9.0})
    assert values(path)[-1] == 9.0


@pytest.mark.parametrize("cut", [[0], [1], [2, 3], [0, 1, 2]])
def test_lines_that_were_cut_out_are_noticed_and_can_be_declared_lost(tmp_path: Path, cut: list[int]) -> None:
    path = tmp_path / "j"
    lines = written(path, 4).splitlines(keepends=True)
    path.write_bytes(b"".join(line for number, line in enumerate(lines) if number not in cut))
    error = refused(path)
    assert error.seen.endswith(f"line {cut[0] + 1}: {len(cut)} line(s) before it are missing")
    follow(error)
    assert values(path) == [n / 3 for n in range(4) if n + 2 not in cut]


def test_a_line_twice_or_in_the_wrong_place_or_of_another_study_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "j"
    lines = written(path, 3).splitlines(keepends=True)
    foreign = written(tmp_path / "k", 3, {"seed": 8}).splitlines(keepends=True)[3]
    path.write_bytes(b"".join([*lines[:4], lines[3], lines[4]]))
    assert "line 5: it stands there twice" in refused(path).seen
    assert repaired(path) == ([0.0, 1 / 3, 2 / 3], 1)
    path.write_bytes(b"".join([*lines[:3], lines[4], lines[3]]))
    assert repaired(path) == ([0.0, 2 / 3], 2)
    path.write_bytes(b"".join([*lines[:3], foreign, lines[4]]))
    assert "line 4: its bytes" in refused(path).seen


def test_an_emptied_description_opens_the_journal_to_the_same_study_only(tmp_path: Path) -> None:
    path = tmp_path / "j"
    path.write_bytes(b"\n" + written(path, 2).split(b"\n", 1)[1])
    assert refused(path, {"seed": 8}).code == "OF731"
    assert values(path) == [0.0, 1 / 3]


def test_a_file_that_is_no_journal_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes"
    for text in (b"no line break", b"one\ntwo\n"):
        path.write_bytes(text)
        assert refused(path).code == "OF730"
        assert path.read_bytes() == text


HOLD = """
import sys, time
from pathlib import Path
from omnifed.search.journal import Journal
with Journal(Path(sys.argv[1]), {"seed": 7, "steps": 20}):
    print("held", flush=True)
    time.sleep(60)
"""


def test_two_processes_on_one_journal_and_a_killed_holder_leaves_no_lock(tmp_path: Path) -> None:
    path = tmp_path / "j"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "held\n"
            before = path.read_bytes()
            error = refused(path)
            assert error.code == "OF733"
            assert error.seen == f"{path} is held by process {child.pid}"
            assert path.read_bytes() == before
        finally:
            child.kill()
    assert values(path) == []


def test_a_refused_journal_is_not_held(tmp_path: Path) -> None:
    written(tmp_path / "j", 1)
    assert refused(tmp_path / "j", {"seed": 8}).code == "OF731"
    assert values(tmp_path / "j") == [0.0]


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file may grow beyond ``size`` bytes: the kernel writes what fits and refuses the rest, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_on_a_full_disk_nothing_is_half_written_and_later_it_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "j"
    with Journal(path, STUDY, CLOCK) as journal:
        journal.append({"event": "told", "value": 1.0})
        before, events = path.read_bytes(), journal.events()
        with largest_file(len(before) + 10), pytest.raises(OmniFedError) as caught:
            journal.append({"event": "told", "value": 2.0})
        assert caught.value.code == "OF103"
        assert path.read_bytes() == before
        assert journal.events() == events
        journal.append({"event": "told", "value": 3.0})
    assert values(path) == [1.0, 3.0]


def test_a_folder_in_the_way_is_a_numbered_error(tmp_path: Path) -> None:
    assert refused(tmp_path).code == "OF103"
