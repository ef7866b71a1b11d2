"""A study that is killed, told twice, too late or nonsense: it asks what an undisturbed one would have asked."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from omnifed.errors import OmniFedError
from omnifed.models.spec import StudentSpec
from omnifed.search.study import Study
from omnifed.search.trials import History, Observation, Trial, make_trial

SITES = ("a", "b", "c")


class Toy:
    """Draws the next point from all that the history holds: another history, another question."""

    def ask(self, history: History, sites: Sequence[str]) -> list[Trial]:
        trials = []
        for number, site in enumerate(sites):
            text = repr((history, number)).encode()
            weight = float(np.random.default_rng([3, history.asked, number, *text]).uniform(0, 3))
            student = StudentSpec(alpha=0.6 + weight / 4)
            weights = {"logits": weight, "relation": weight / 7}
            key = f"n{history.asked + number}"
            trials.append(
                make_trial("s", key, site, steps=9, fraction=0.2, student=student, why="model", weights=weights)
            )
        return trials


def answer(trial: Trial, **figures: float) -> Observation:
    share = int(trial.id, 16) / 2**64
    return Observation(trial=trial, **{"dice": share, "se": share / 30, "n": 4, "seconds": 2.5, **figures})


class Clock:
    def __init__(self, *times: float) -> None:
        self.times = list(times)

    def __call__(self) -> float:
        return self.times.pop(0)


def study(folder: Path, **options) -> Study:
    return Study(Toy(), folder / "j.jsonl", {"seed": 3}, **options)


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "j.jsonl").read_text().splitlines()]


def test_asked_is_in_the_journal_before_it_is_returned_and_told_counts_once(tmp_path: Path) -> None:
    with study(tmp_path) as one:
        first, second = one.ask(["a", "b"])
        assert lines(tmp_path)[-1]["trials"] == [first.model_dump(mode="json"), second.model_dump(mode="json")]
        assert one.history == History(pending=(first, second), asked=2)
        assert one.tell(answer(second))
        assert one.tell(answer(first))
        size = (tmp_path / "j.jsonl").stat().st_size
        assert not one.tell(answer(second))
        assert not one.tell(answer(second, dice=0.1)), "another answer to the same trial neither"
        assert (tmp_path / "j.jsonl").stat().st_size == size
        assert one.history == History(told=(answer(second), answer(first)), asked=2)
        assert one.seconds == 5.0
        assert one.trials == {"asked": 2, "told": 2, "pending": 0, "failed": 0, "expired": 0}


def test_a_lost_trial_may_be_asked_again_and_comes_late_only_once(tmp_path: Path) -> None:
    class Same:
        def ask(self, history: History, sites: Sequence[str]) -> list[Trial]:
            return [make_trial("s", "n", sites[0], steps=1, fraction=1, student=StudentSpec(), why="model")]

    with Study(Same(), tmp_path / "j.jsonl", {}) as one:
        (lost,) = one.ask(["a"])
        one.expire(lost, "A task must be answered in time.")
        one.expire(lost, "A task must be answered in time.")
        assert one.history == History(asked=1)
        assert one.ask(["a"]) == [lost]
        assert one.history == History(pending=(lost,), asked=2)
        one.expire(lost, "A task must be answered in time.")
        assert one.tell(answer(lost)), "late, and still an observation"
        assert not one.tell(answer(lost))
        one.fail(lost, "OF401", "The loss must stay finite.")
        one.expire(lost, "A task must be answered in time.")
        assert one.history == History(told=(answer(lost),), asked=2)
        assert one.trials["expired"] == 2
        with pytest.raises(ValueError, match="must ask new trials"):
            one.ask(["a"])


def test_failures_in_a_row_are_counted_by_site_and_survive_a_restart(tmp_path: Path) -> None:
    with study(tmp_path) as one:
        for _ in range(2):
            (trial,) = one.ask(["a"])
            one.fail(trial, "OF401", "The loss must stay finite.")
            one.fail(trial, "OF401", "The loss must stay finite.")
        (lost,) = one.ask(["a"])
        one.expire(lost, "lost")
        assert (one.failures("a"), one.failures("b")) == (2, 0)
        assert len(one.history.failed) == 2
    with study(tmp_path) as one:
        assert one.failures("a") == 2
        one.fail(lost, "OF401", "late, and failed")
        assert one.failures("a") == 3
        assert one.tell(answer(trial)), "it had failed, and was done after all"
        assert one.failures("a") == 0
        assert trial not in one.history.failed
        assert len(one.history.failed) == 2


def test_after_a_restart_pending_trials_go_to_their_sites_first(tmp_path: Path) -> None:
    with study(tmp_path) as one:
        at_a, at_b = one.ask(["a", "b"])
        history = one.history
    with study(tmp_path) as one:
        assert one.history == history
        again, new = one.ask(["c", "b"])
        assert (again, new.site) == (at_b, "c")
        assert one.trials["asked"] == 3
        assert one.tell(answer(at_b))
        assert one.ask(["a"]) == [at_a]
        assert one.trials["asked"] == 3


@pytest.mark.parametrize("field", ["dice", "se", "seconds", "step_seconds"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_what_is_no_figure_never_reaches_the_journal(tmp_path: Path, field: str, value: float) -> None:
    with study(tmp_path) as one:
        (trial,) = one.ask(["a"])
        before = (tmp_path / "j.jsonl").read_bytes()
        with pytest.raises(OmniFedError) as caught:
            one.tell(answer(trial).model_copy(update={field: value}))
        assert caught.value.code == "OF734"
        assert (tmp_path / "j.jsonl").read_bytes() == before
        assert one.history.pending == (trial,)


def test_answers_of_another_study_are_refused(tmp_path: Path) -> None:
    with study(tmp_path) as one:
        (trial,) = one.ask(["a"])
        foreign = trial.model_copy(update={"id": "0" * 16})
        changed = trial.model_copy(update={"steps": 10})
        before = (tmp_path / "j.jsonl").read_bytes()
        for wrong in (foreign, changed):
            calls = [(one.tell, (answer(wrong),)), (one.fail, (wrong, "OF401", "")), (one.expire, (wrong, ""))]
            for call, arguments in calls:
                with pytest.raises(OmniFedError) as caught:
                    call(*arguments)
                assert caught.value.code == "OF735"
        assert (tmp_path / "j.jsonl").read_bytes() == before


@pytest.mark.parametrize("fault", ["busy site", "twice a site"])
def test_a_searcher_that_breaks_the_rules_writes_nothing(tmp_path: Path, fault: str) -> None:
    class Wrong(Toy):
        def ask(self, history: History, sites: Sequence[str]) -> list[Trial]:
            return super().ask(history, ["b"] if fault == "busy site" else ["a", "a"])

    with Study(Wrong(), tmp_path / "j.jsonl", {}) as one:
        with pytest.raises(ValueError, match="free sites"):
            one.ask(["a"])
        assert one.history == History()
    assert [line["event"] for line in lines(tmp_path)] == ["study", "opened"]


def test_a_line_that_this_version_cannot_read_is_of_another_version(tmp_path: Path) -> None:
    from omnifed.search.journal import Journal

    with Journal(tmp_path / "j.jsonl", {"seed": 3}) as journal:
        journal.append({"event": "asked", "before": 0, "trials": [{"id": "?"}]})
    for _ in range(2):  # and it is not held afterwards
        with pytest.raises(OmniFedError, match="event 2") as caught:
            study(tmp_path)
        assert caught.value.code == "OF732"


def test_time_is_counted_within_sessions_and_a_clock_set_back_takes_none_away(tmp_path: Path) -> None:
    with study(tmp_path, now=Clock(100.0, 101.0, 104.0)) as one:  # opened, asked, told
        (trial,) = one.ask(["a"])
        one.tell(answer(trial))
        assert one.spent_s == 4.0
    with study(tmp_path, now=Clock(9000.0, 9002.0, 8000.0, 8001.5)) as one:  # opened, asked, set back, asked
        assert one.spent_s == 4.0
        (trial,) = one.ask(["a"])
        one.tell(answer(trial))
        one.ask(["a"])
        assert one.spent_s == 4.0 + 2.0 + 1.5
    with study(tmp_path, now=Clock(0.0)) as one:
        assert one.spent_s == 7.5


def test_a_lost_line_costs_little(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    with study(tmp_path) as one:
        at_a, at_b = one.ask(["a", "b"])
        one.tell(answer(at_a))
        one.tell(answer(at_b))
    whole = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([*whole[:2], b"", *whole[3:]]))  # asked
    with study(tmp_path) as one:
        assert one.history.told == (answer(at_a), answer(at_b)), "told lines stand alone"
    path.write_bytes(b"\n".join([*whole[:3], b"", *whole[4:]]))  # told, of a
    with study(tmp_path) as one:
        assert one.history == History(told=(answer(at_b),), pending=(at_a,), asked=2)
        assert one.ask(["a"]) == [at_a], "asked again, with the same id"


def test_lost_lines_change_neither_the_counter_of_the_draws_nor_count_a_pause(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    with study(tmp_path, now=Clock(100.0, 101.0, 104.0)) as one:  # opened, asked, told
        (trial,) = one.ask(["a"])
        one.tell(answer(trial))
    with study(tmp_path, now=Clock(9000.0, 9002.0)) as one:  # opened, asked
        one.ask(["a"])
        assert (one.spent_s, one.trials["asked"]) == (6.0, 2)
    whole = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([*whole[:2], b"", *whole[3:4], b"", *whole[5:]]))  # the first asked, the second opened
    with study(tmp_path, now=Clock(9999.0)) as one:
        assert (one.spent_s, one.trials["asked"]) == (0.0, 2), "what no two lines in a row say is not counted"


# Steps of a random driver: (what, which pending trial or which sites); a restart may come at any place.
STEP = st.tuples(st.sampled_from(["ask", "tell", "again", "fail", "expire", "late"]), st.integers(0, 6))


def drive(one: Study, what: str, number: int, lost: list[Trial]) -> None:
    history = one.history
    pending = history.pending[number % len(history.pending)] if history.pending else None
    if what == "ask":
        busy = {trial.site for trial in history.pending}
        one.ask([site for place, site in enumerate(SITES) if number + 1 >> place & 1 and site not in busy])
    elif what == "again" and history.told:
        assert not one.tell(history.told[number % len(history.told)])
    elif what == "late" and lost:
        one.tell(answer(lost[number % len(lost)]))
    elif pending is not None and what == "tell":
        assert one.tell(answer(pending))
    elif pending is not None and what == "fail":
        one.fail(pending, "OF401", "rule")
    elif pending is not None and what == "expire":
        one.expire(pending, "rule")
        lost.append(pending)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.tuples(STEP, st.booleans()), max_size=16))
def test_a_replayed_study_asks_the_same_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[tuple[str, int], bool]]
) -> None:
    folder = tmp_path_factory.mktemp("x")
    whole, cut = study(folder / "whole"), study(folder / "cut")
    lost_whole: list[Trial] = []
    lost_cut: list[Trial] = []
    for (what, number), restart in steps:
        drive(whole, what, number, lost_whole)
        drive(cut, what, number, lost_cut)
        if restart:
            cut.close()
            cut = study(folder / "cut")
        assert cut.history == whole.history
        assert repr(cut.history) == repr(whole.history)
        assert (cut.trials, cut.seconds) == (whole.trials, whole.seconds)
        assert [cut.failures(site) for site in SITES] == [whole.failures(site) for site in SITES]
    free = [site for site in SITES if site not in {trial.site for trial in whole.history.pending}]
    assert repr(cut.ask(free)) == repr(whole.ask(free))
    whole.close()
    cut.close()


def work(folder: Path, die_at: int, how: str) -> None:
    """Asks and tells until 9 trials are told; gives up each fourth. Kills itself at its ``die_at``-th write."""
    pwrite, fsync, writes = os.pwrite, os.fsync, 0

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def killed_write(handle: int, data: bytes, place: int) -> int:
        nonlocal writes
        writes += 1
        if writes == die_at and how == "torn":
            pwrite(handle, data[: len(data) // 2], place)
        if writes == die_at and how in ("before", "torn"):
            die()
        return pwrite(handle, data, place)

    def killed_sync(handle: int) -> None:
        if writes == die_at and how == "unsynced":
            die()
        fsync(handle)
        if writes == die_at and how == "after":
            die()

    os.pwrite, os.fsync = killed_write, killed_sync
    with study(folder) as one:
        while len(one.history.told) < 9 or one.history.pending:
            # An undisturbed run asks when all have answered; one that takes up first waits for what is pending.
            for trial in one.ask([trial.site for trial in one.history.pending] or SITES):
                if int(trial.key[1:]) % 4 == 3:
                    one.expire(trial, "lost")
                else:
                    assert one.tell(answer(trial))


def run_process(folder: Path, die_at: int = 0, how: str = "") -> int | None:
    process = multiprocessing.get_context("fork").Process(target=work, args=(folder, die_at, how))
    process.start()
    process.join(30)
    return process.exitcode


def sequence(folder: Path) -> list[dict]:
    """What was asked, told and given up, in order; without times and sessions."""
    apart = ("n", "time", "check")
    events = [event for event in lines(folder) if event["event"] not in ("study", "opened")]
    return [{key: value for key, value in event.items() if key not in apart} for event in events]


@pytest.mark.parametrize("how", ["before", "torn", "unsynced", "after"])
def test_killed_at_any_write_it_goes_on_as_if_nothing_had_been(tmp_path: Path, how: str) -> None:
    assert run_process(tmp_path / "whole") == 0
    whole = sequence(tmp_path / "whole")
    assert [event["event"] for event in whole].count("told") == 9
    writes = len(lines(tmp_path / "whole"))
    for die_at in range(1, writes + 1):
        folder = tmp_path / f"cut{die_at}"
        assert run_process(folder, die_at, how) == -signal.SIGKILL
        assert run_process(folder) == 0
        assert sequence(folder) == whole
    assert run_process(tmp_path / "last", writes + 1, how) == 0, "each write was a place to die"


@pytest.mark.parametrize("how", ["before", "torn", "unsynced", "after"])
def test_killed_in_every_session_it_still_ends_in_the_same(tmp_path: Path, how: str) -> None:
    assert run_process(tmp_path / "whole") == 0
    ends = [run_process(tmp_path / "cut", 3, how)]  # the description, "opened", then nothing or one event
    while ends[-1] and len(ends) < 50:
        ends.append(run_process(tmp_path / "cut", 3, how))
    assert ends[-1] == 0
    assert len(ends) > 8
    assert sequence(tmp_path / "cut") == sequence(tmp_path / "whole")


def test_a_second_coordinator_is_refused(tmp_path: Path) -> None:
    with study(tmp_path) as one:
        assert run_process(tmp_path) == 1, "the second one ends with an error, in any process"
        with pytest.raises(OmniFedError, match=f"held by process {os.getpid()}") as caught:
            study(tmp_path)
        assert caught.value.code == "OF733"
        assert len(one.ask(SITES)) == 3, "the first goes on"
