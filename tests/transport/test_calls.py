from __future__ import annotations

import time

import numpy as np
import pytest
from test_pool import Adder, tasks

from omnifed.transport.apps import client_app
from omnifed.transport.calls import Calls
from omnifed.transport.inprocess import InProcessGrid
from omnifed.transport.link import NO_DEADLINE_S
from omnifed.transport.patience import Patience
from omnifed.transport.pool import TaskPool
from omnifed.transport.records import task_of

DEPLOYED = Patience(join_s=0.05, wait_s=5.0, roll_call_s=0.0, ping_s=0.05, tries=10)


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_the_pauses_between_calls_double(clock):
    calls: Calls[str] = Calls(10.0)
    made = []
    for second in range(100):
        clock[0] = 1000.0 + second
        if calls.due("a"):
            calls.add("a", f"m{second}")
            made.append(second)
    assert made == [0, 10, 30, 70]


def test_any_answer_ends_all_calls_for_its_reason(clock):
    calls: Calls[int] = Calls(0.0)
    calls.add(7, "m1")
    calls.add(7, "m2")
    calls.add(8, "m3")
    assert calls.answered("m1") == 7
    assert list(calls.to) == ["m3"]
    assert calls.answered("m2") is None
    assert calls.due(7)


def test_a_lost_call_leaves_the_others(clock):
    calls: Calls[int] = Calls(10.0)
    calls.add(7, "m1")
    calls.add(7, "m2")
    assert calls.answered("m1", lost=True) == 7
    assert list(calls.to) == ["m2"]
    assert calls.answered("m2", lost=True) == 7
    assert calls.due(7)


def test_a_refusal_keeps_the_pauses_growing_and_is_not_waited_for(clock):
    calls: Calls[int] = Calls(10.0)
    made = []
    for second in range(100):
        clock[0] = 1000.0 + second
        if calls.due(7):
            calls.add(7, f"m{second}")
            made.append(second)
            assert calls.answered(f"m{second}", again=True) == 7
            assert not calls.fresh(60.0)
    assert made == [0, 10, 30, 70]


def test_a_call_that_could_not_be_made_is_made_again(clock):
    calls: Calls[int] = Calls(10.0)
    calls.add(7, "")
    assert calls.due(7)
    assert not calls.fresh(60.0)


def test_only_a_young_reason_is_waited_for(clock):
    calls: Calls[int] = Calls(10.0)
    calls.add(7, "m1")
    clock[0] += 59.0
    calls.add(7, "m2")
    assert calls.fresh(60.0)
    clock[0] += 1.0
    assert not calls.fresh(60.0)


class Lossy(InProcessGrid):
    """Loses the first ``losses`` messages of a kind on their way to site b, as a cut does: nobody hears of it."""

    kind, losses = "hello", 1

    def push_messages(self, messages):
        ids = super().push_messages(messages)
        for message_id in ids:
            message, delivery = self._pending[message_id]
            if self.losses and delivery.site == "b" and task_of(message.content)[0].kind == self.kind:
                self.losses -= 1
                del self._pending[message_id]
        return ids


def test_a_greeting_that_a_cut_has_swallowed_is_said_again():
    pool = TaskPool(Lossy(client_app(Adder), ["a", "b"]), poll_s=0.01, hello_s=0.3, patience=DEPLOYED)
    started = time.monotonic()
    assert list(pool.hello()) == ["a", "b"]
    assert time.monotonic() - started < 0.3


def test_a_node_that_does_not_answer_holds_up_the_others_once():
    grid = Lossy(client_app(Adder), ["a", "b"])
    grid.losses = 99
    pool = TaskPool(grid, poll_s=0.01, hello_s=0.3, patience=DEPLOYED)
    pool.hello()
    started = time.monotonic()
    pool.hello()
    assert time.monotonic() - started < 0.2


def test_a_task_and_pings_that_a_cut_has_swallowed_are_sent_again():
    grid = Lossy(client_app(Adder), ["a", "b"])
    grid.losses = 0
    pool = TaskPool(grid, poll_s=0.01, patience=DEPLOYED)
    pool.hello()
    grid.kind, grid.losses = "fit", 1
    push, lost = grid.push_messages, [2]

    def pings_lost(messages):
        if grid.kind == "fit" and not grid.losses and lost[0]:
            lost[0] -= 1
            grid.kind, grid.losses = "hello", 1
            ids = push(messages)
            grid.kind, grid.losses = "fit", 0
            return ids
        return push(messages)

    grid.push_messages = pings_lost
    arrivals = list(pool.run(tasks("b")))
    assert [a.reply.kind for a in arrivals] == ["fit"]
    assert arrivals[0].bytes_down > 2 * 12  # sent twice


class Hanging(InProcessGrid):
    """Site b takes no message until ``free``; then it answers all of them in order."""

    free = False

    def pull_messages(self, message_ids):
        return super().pull_messages(
            [i for i in message_ids if i in self._pending and (self.free or self._pending[i][1].site != "b")]
        )


def test_a_site_that_hangs_costs_one_deadline_and_is_asked_again_when_it_answers():
    grid = Hanging(client_app(Adder), ["a", "b"])
    grid.free = True
    pool = TaskPool(grid, poll_s=0.01, patience=DEPLOYED)
    pool.hello()
    grid.free = False

    def codes(round_):
        state = {"w": np.full(3, round_, np.float32)}
        return {a.site: getattr(a.reply, "code", "") for a in pool.run(tasks("a", "b", state=state), deadline_s=0.4)}

    assert codes(0) == {"a": "", "b": "OF502"}
    started = time.monotonic()
    assert codes(1) == {"a": "", "b": "OF502"}
    assert time.monotonic() - started < 0.2
    grid.free = True
    assert codes(2) == {"a": "", "b": ""}


def test_a_site_that_hangs_is_waited_for_where_the_quorum_needs_it():
    grid = Hanging(client_app(Adder), ["a", "b"])
    grid.free = True
    pool = TaskPool(grid, poll_s=0.01, patience=DEPLOYED)
    pool.hello()
    grid.free = False
    list(pool.run(tasks("b"), deadline_s=0.1))
    codes = {}
    for arrival in pool.run(tasks("a", "b"), needed=2):
        codes[arrival.site] = getattr(arrival.reply, "code", "")
        grid.free = True
    assert codes == {"a": "", "b": ""}


@pytest.mark.parametrize(("patience", "ttl"), [(Patience(), 2.0), (DEPLOYED, NO_DEADLINE_S)])
def test_between_machines_only_the_coordinator_s_clock_keeps_a_deadline(patience, ttl):
    grid = InProcessGrid(client_app(Adder), ["a"])
    pool = TaskPool(grid, poll_s=0.01, patience=patience)
    seen = []
    pool.hello()
    push = grid.push_messages
    grid.push_messages = lambda messages: [seen.extend(m.metadata.ttl for m in messages), push(messages)][1]
    list(pool.run(tasks("a"), deadline_s=2.0))
    assert seen == [ttl]


class Between(InProcessGrid):
    """Answers a ping in one look, and gives the reply that came before it in the next one."""

    def __init__(self, *args):
        super().__init__(*args)
        self.looks = 0

    def pull_messages(self, message_ids):
        self.looks += 1
        kinds = {i: task_of(self._pending[i][0].content)[0].kind for i in message_ids if i in self._pending}
        fits = [i for i, kind in kinds.items() if kind == "fit"]
        if fits and any(kind == "hello" for kind in kinds.values()):
            return super().pull_messages([i for i in kinds if i not in fits])
        return super().pull_messages(message_ids) if not fits or self.looks > 6 else []


def test_a_reply_that_comes_just_before_its_ping_is_not_lost():
    told = []
    pool = TaskPool(
        Between(client_app(Adder), ["a"]),
        poll_s=0.02,
        patience=DEPLOYED,
        on_site=lambda site, state, fields: told.append(state),
    )
    (arrival,) = pool.run(tasks("a"))
    assert arrival.reply.kind == "fit"
    assert told.count("working") == 1


def test_a_reason_may_be_called_for_without_end() -> None:
    calls: Calls[str] = Calls(0.0)
    for number in range(1200):
        assert calls.due("why")
        calls.add("why", f"m{number}")
