"""Tasks that follow each other in one exchange: a site that is free is asked again while others work."""

from __future__ import annotations

import time

import numpy as np
import pytest
from test_calls import DEPLOYED
from test_pool import Adder, fit, tasks

from omnifed.federation.replies import FailedReply, TrialReply
from omnifed.federation.tasks import HelloTask, TrialTask
from omnifed.models.spec import StudentSpec
from omnifed.training.spec import TrainSpec
from omnifed.transport.apps import client_app
from omnifed.transport.inprocess import InProcessGrid
from omnifed.transport.patience import Pace
from omnifed.transport.pool import TaskPool

STATE = {"w": np.zeros(3, np.float32)}


class Slow(InProcessGrid):
    """Site b answers only when site a has answered three times."""

    answered = 0

    def pull_messages(self, message_ids):
        ids = [i for i in message_ids if i in self._pending]
        found = super().pull_messages([i for i in ids if self.answered >= 3 or self._pending[i][1].site != "b"])
        self.answered += sum(m.metadata.src_node_id == 1 and "train" in m.metadata.message_type for m in found)
        return found


def known(grid: InProcessGrid, **settings) -> TaskPool:
    """A pool that all sites of the grid have introduced themselves to."""
    pool = TaskPool(grid, poll_s=0.01, **settings)
    pool.roster.nodes = {n: Adder(s).execute(HelloTask(id="h"), {})[0] for n, s in enumerate(grid.sites, 1)}
    return pool


def test_a_fast_site_never_waits_for_a_slow_one():
    pool, rest = known(Slow(client_app(Adder), ["a", "b"])), [1, 2, 3]

    def more(arrival):
        return {"a": (fit("a", rest.pop(0)), STATE)} if arrival.site == "a" and rest else {}

    order = [(a.site, a.reply.id) for a in pool.run(tasks("a", "b"), more=more)]
    assert order == [("a", "t.a.r0.a.fit"), ("a", "t.a.r1.a.fit"), ("a", "t.a.r2.a.fit"), ("b", "t.a.r0.b.fit"),
                     ("a", "t.a.r3.a.fit")]  # fmt: skip


def test_further_tasks_are_asked_for_when_an_arrival_has_been_seen():
    pool, seen = known(InProcessGrid(client_app(Adder), ["a", "b"])), []

    def more(arrival):
        assert seen[-1] is arrival
        return {"b": (fit("b"), STATE)} if arrival.site == "a" else {}

    for arrival in pool.run(tasks("a"), more=more):
        seen.append(arrival)
    assert [a.site for a in seen] == ["a", "b"]
    stream = pool.run(tasks("a"), more=lambda arrival: pytest.fail("nobody has seen it yet"))
    next(stream)
    stream.close()


def test_bytes_and_tries_are_those_of_one_task():
    pool, rest = known(InProcessGrid(client_app(Adder), ["a"])), [1, 2]
    runs = list(pool.run(tasks("a"), more=lambda arrival: {"a": (fit("a", rest.pop()), STATE)} if rest else {}))
    assert len(runs) == 3
    assert len({arrival.bytes_down for arrival in runs}) == 1
    assert all(arrival.reply.kind == "fit" for arrival in runs)


def test_one_task_a_site_at_a_time():
    pool = known(InProcessGrid(client_app(Adder), ["a", "b"]))
    with pytest.raises(ValueError, match="b has a task"):
        list(pool.run(tasks("a", "b"), more=lambda arrival: {"b": (fit("b", 1), STATE)}))


class Silent(InProcessGrid):
    """A link that never has the answer of site b."""

    def pull_messages(self, message_ids):
        return super().pull_messages([i for i in message_ids if i in self._pending and self._pending[i][1].site != "b"])


def test_what_a_silent_site_lost_is_asked_elsewhere_while_others_work():
    pool, order = known(Silent(client_app(Adder), ["a", "b", "c"])), []

    def more(arrival):
        order.append((arrival.site, getattr(arrival.reply, "code", "")))
        if arrival.site == "b":
            return {"c": (fit("b"), STATE)}
        return {"a": (fit("a", len(order)), STATE)} if arrival.site == "a" and ("c", "") not in order else {}

    list(pool.run(tasks("a", "b"), deadline_s=0.05, more=more))
    late = order.index(("b", "OF502"))
    assert order[0] == ("a", "")
    assert set(order[1:late]) == {("a", "")}  # site a went on while b was waited for, and after it
    assert order.index(("c", "")) > late
    assert ("a", "") in order[late:]


def test_a_site_that_is_away_is_a_miss_at_once():
    pool, order = known(InProcessGrid(client_app(Adder), ["a", "b"])), []

    def more(arrival):
        order.append((arrival.site, getattr(arrival.reply, "code", "")))
        return {"a": (fit("away"), STATE)} if arrival.site == "away" else {}

    list(pool.run(tasks("away", "b"), more=more))
    assert order == [("away", "OF501"), ("b", ""), ("a", "")]
    # Without `more` it may still come until the end, as ever.
    assert [a.site for a in pool.run(tasks("away", "b"))] == ["b", "away"]


def test_a_lost_node_has_its_time_to_come_back_before_its_task_is_given_up():
    class Vanishing(InProcessGrid):
        def pull_messages(self, message_ids):
            if any(self._pending[i][1].site == "a" for i in message_ids if i in self._pending):
                self._contexts.pop(1, None)
            return super().pull_messages([i for i in message_ids if self._pending[i][1].site == "c"])

    pool, order = known(Vanishing(client_app(Adder), ["a", "b", "c"]), patience=DEPLOYED), []
    started = time.monotonic()

    def more(arrival):
        order.append((arrival.site, getattr(arrival.reply, "code", ""), time.monotonic() - started))
        return {"c": (fit("a"), STATE)} if arrival.site == "a" else {}

    list(pool.run(tasks("a"), more=more))
    assert [(site, code) for site, code, _ in order] == [("a", "OF506"), ("c", "")]
    assert order[0][2] >= DEPLOYED.join_s


def test_times_of_other_kinds_of_tasks_set_no_deadline():
    class Later(InProcessGrid):
        """Site b takes five looks, a hundred times as long as site a."""

        looks = 0

        def pull_messages(self, message_ids):
            self.looks += 1
            ids = [i for i in message_ids if i in self._pending]
            return super().pull_messages([i for i in ids if self.looks > 5 or self._pending[i][1].site == "a"])

    def kinds(task):
        pool = known(Later(client_app(Trier), ["a", "b"]), pace=Pace(factor=1.0, floor_s=0.0))
        return [a.reply.kind for a in pool.run({"a": (fit("a"), STATE), "b": (task, STATE)})]

    assert kinds(fit("b")) == ["fit", "failed"]
    assert kinds(trial("b")) == ["fit", "trial"]


def trial(site: str) -> TrialTask:
    return TrialTask(id=f"c.trial.{site}", student=StudentSpec(), train=TrainSpec(steps=1))


class Trier(Adder):
    """Also answers trials."""

    def execute(self, task, state):
        if isinstance(task, TrialTask):
            self.calls += 1
            reply = TrialReply(id=task.id, site=self.site, dice=0.5, se=0.1, n=4, patients=2, step_seconds=0.1)
            return reply, {}
        return super().execute(task, state)


def test_a_site_that_is_too_old_for_a_trial_is_not_asked_and_another_is():
    made = {}

    def executor_of(site):
        made[site] = Trier(site)
        return made[site]

    pool, order = known(InProcessGrid(client_app(executor_of), ["old", "new", "busy"])), []
    pool.roster.nodes[1] = pool.roster.nodes[1].model_copy(update={"protocol": 2})

    def more(arrival):
        order.append((arrival.site, getattr(arrival.reply, "code", "")))
        return {"new": (trial("old"), {})} if arrival.site == "old" else {}

    arrivals = list(pool.run({"old": (trial("old"), {}), "busy": (trial("busy"), {})}, more=more))
    assert order == [("old", "OF513"), ("busy", ""), ("new", "")]
    assert isinstance(arrivals[0].reply, FailedReply)
    assert "protocol 3" in arrivals[0].reply.rule
    assert {site: trier.calls for site, trier in made.items()} == {"new": 1, "busy": 1}
    # The same site still does what it knows.
    assert [a.reply.kind for a in pool.run(tasks("old"))] == ["fit"]
    assert made["old"].calls == 1
