from __future__ import annotations

import json
import logging
import math
import os

import numpy as np
import pytest

from omnifed.federation.replies import FitReply, HelloReply
from omnifed.federation.tasks import FitTask, HelloTask
from omnifed.models.spec import StudentSpec
from omnifed.training.spec import TrainSpec
from omnifed.transport.apps import client_app, server_app
from omnifed.transport.flower_compat import ClientApp, ConfigRecord, Context, Message, RecordDict
from omnifed.transport.inprocess import InProcessGrid
from omnifed.transport.link import AT_ONCE
from omnifed.transport.pool import TaskPool
from omnifed.transport.records import HEAD, STATE, pack, task_of


class Adder:
    """Adds 1 to everything; counts its calls; tries to write into what it was given."""

    def __init__(self, site: str, name: str | None = None) -> None:
        self.site, self.calls = name or site, 0

    def execute(self, task, state):
        if isinstance(task, HelloTask):
            return HelloReply(
                id=task.id, site=self.site, version="0", channels=1, classes=2, labels=("a", "b"), modality="ct",
                image_size=(32, 32), train=1, val=1, test=1,
            ), {}  # fmt: skip
        self.calls += 1
        for value in state.values():
            assert not value.flags.writeable
        reply = FitReply(id=task.id, site=self.site, n=1, steps=1, loss={}, dice=0.5, adopted=True)
        return reply, {key: value + 1 for key, value in state.items()}


def fit(site: str, round_: int = 0) -> FitTask:
    return FitTask(id=f"t.a.r{round_}.{site}.fit", round=round_, student=StudentSpec(), train=TrainSpec())


def tasks(*sites: str, state=None):
    return {site: (fit(site), state if state is not None else {"w": np.zeros(3, np.float32)}) for site in sites}


def test_one_arrival_a_site_in_the_order_of_the_tasks():
    pool = TaskPool(InProcessGrid(client_app(Adder), ["a", "b", "c"]))
    arrivals = list(pool.run(tasks("c", "a")))
    assert [a.site for a in arrivals] == ["c", "a"]
    np.testing.assert_array_equal(arrivals[0].state["w"], np.ones(3, np.float32))
    assert arrivals[0].bytes_up > 12
    assert arrivals[0].bytes_down > 12
    assert arrivals[0].virtual_seconds >= 0


def test_an_executor_is_made_once_and_sites_run_only_when_pulled():
    made = {}

    def executor_of(site):
        made[site] = Adder(site)
        return made[site]

    pool = TaskPool(InProcessGrid(client_app(executor_of), ["a", "b"]))
    stream = pool.run(tasks("a", "b"))
    next(stream)
    assert (made["a"].calls, made["b"].calls) == (1, 0)
    list(stream)
    list(pool.run(tasks("a")))
    assert (made["a"].calls, made["b"].calls) == (2, 1)


def test_hello_names_the_sites():
    pool = TaskPool(InProcessGrid(client_app(Adder), ["a", "b"]))
    assert sorted(pool.hello()) == ["a", "b"]


def test_a_site_is_found_by_what_it_says_not_by_its_node():
    names = {"first": "a", "second": "b"}
    pool = TaskPool(InProcessGrid(client_app(lambda node: Adder(node, names[node])), ["first", "second"]))
    assert [a.reply.kind for a in pool.run(tasks("b", "a"))] == ["fit", "fit"]


def test_a_restarted_node_with_another_id_is_found_again():
    grid = InProcessGrid(client_app(Adder), ["a", "b"])
    pool = TaskPool(grid)
    pool.hello()
    grid._contexts[7] = grid._contexts.pop(1)
    assert [a.reply.kind for a in pool.run(tasks("a"))] == ["fit"]


def test_a_node_that_is_gone_is_a_miss():
    grid = InProcessGrid(client_app(Adder), ["a", "b"])
    pool = TaskPool(grid)
    pool.hello()
    del grid._contexts[1]
    found = {a.site: a for a in pool.run(tasks("a", "b"))}
    assert found["a"].reply.code == "OF501"
    assert found["b"].reply.kind == "fit"


def test_a_second_node_of_one_name_is_refused_until_the_first_has_gone():
    told = []
    grid = InProcessGrid(client_app(lambda node: Adder(node, "same")), ["x", "y"])
    pool = TaskPool(grid, on_site=lambda site, state, fields: told.append((site, state, fields.get("code"))))
    assert list(pool.hello()) == ["same"]
    assert told == [("same", "joined", None), ("same", "refused", "OF508")]
    assert pool.node_of("same") == 1
    del grid._contexts[1]
    pool.hello()
    assert told[2:] == [("same", "lost", "OF506"), ("same", "joined", None)]
    assert pool.node_of("same") == 2


def test_a_factory_that_fails_is_a_miss_and_tells_no_secret(caplog):
    def executor_of(site):
        raise FileNotFoundError("/data/Müller.dcm")

    pool = TaskPool(InProcessGrid(client_app(executor_of), ["a"]))
    with caplog.at_level(logging.CRITICAL):
        (arrival,) = pool.run(tasks("a"))
    assert arrival.reply.code == "OF516"
    assert "FileNotFoundError" in arrival.reply.rule
    assert "Müller" not in json.dumps(arrival.reply.model_dump())


def test_an_application_that_raises_is_a_lost_node():
    app = ClientApp()
    good = client_app(Adder)
    app.query("hello")(lambda message, context: good(message, context))

    @app.train("fit")
    def _fit(message, context):
        raise RuntimeError("a mod failed")

    (arrival,) = TaskPool(InProcessGrid(app, ["a"])).run(tasks("a"))
    assert arrival.reply.code == "OF506"
    assert "mod failed" not in arrival.reply.rule


def test_an_answer_that_is_not_ours_is_a_miss():
    app = ClientApp()
    good = client_app(Adder)
    app.query("hello")(lambda message, context: good(message, context))
    app.train("fit")(lambda message, context: Message(RecordDict(), reply_to=message))
    (arrival,) = TaskPool(InProcessGrid(app, ["a"])).run(tasks("a"))
    assert arrival.reply.code == "OF503"


class Silent(InProcessGrid):
    """A link that never has the answer of site b, as a dead node's."""

    def pull_messages(self, message_ids):
        waiting = [i for i in message_ids if i in self._pending and self._pending[i][1].site != "b"]
        return super().pull_messages(waiting)


def test_a_silent_node_is_late_at_the_deadline_and_others_are_not_held_up():
    pool = TaskPool(Silent(client_app(Adder), ["a", "b", "c"]), poll_s=0.01)
    pool.roster.nodes = {n: Adder(s).execute(HelloTask(id="h"), {})[0] for n, s in enumerate("abc", 1)}
    found = [(a.site, getattr(a.reply, "code", "")) for a in pool.run(tasks("a", "b", "c"), deadline_s=0.05)]
    assert found == [("a", ""), ("c", ""), ("b", "OF502")]


def test_sites_share_the_bytes_of_a_shared_state():
    grid = InProcessGrid(client_app(Adder), ["a", "b"])
    pool = TaskPool(grid)
    pool.hello()
    stream = pool.run(tasks("a", "b", state={"w": np.zeros(1000, np.float32)}))
    next(stream)
    messages = [message for message, _ in grid._pending.values()]
    first = messages[0].content["state"]["float32"].data
    list(stream)
    grid.push_messages(messages)
    (copied, _) = next(iter(grid._pending.values()))
    assert copied is not messages[0]
    assert copied.content["state"]["float32"].data is first


def test_one_site_cannot_reach_another_through_a_message():
    seen = []

    class Vandal(Adder):
        def execute(self, task, state):
            seen.append(dict(state))
            state.clear()
            return super().execute(task, state)

    state = {"w": np.zeros(3, np.float32)}
    list(TaskPool(InProcessGrid(client_app(Vandal), ["a", "b"])).run(tasks("a", "b", state=state)))
    assert all(list(s) == ["w"] for s in seen if s)
    assert list(state) == ["w"]


def test_the_server_app_gets_the_grid():
    seen = []
    app = server_app(seen.append)
    grid = InProcessGrid(client_app(Adder), ["a"])
    app(grid, Context(1, 0, {}, RecordDict(), {}))
    assert seen == [grid]


def test_telemetry_is_off():
    from flwr.supercore import telemetry

    assert os.environ["FLWR_TELEMETRY_ENABLED"] == "0"
    assert telemetry.FLWR_TELEMETRY_ENABLED == "0"


def test_flowers_own_strategy_runs_over_the_grid():
    from flwr.app import ArrayRecord, MetricRecord
    from flwr.serverapp.strategy import FedAvg

    app = ClientApp()

    @app.train()
    def _train(message, context):
        add = 1.0 if context.node_config["site"] == "a" else 3.0
        arrays = ArrayRecord([value + add for value in message.content["arrays"].to_numpy_ndarrays()])
        content = RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": 1})})
        return Message(content, reply_to=message)

    grid = InProcessGrid(app, ["a", "b"])
    TaskPool(grid)
    strategy = FedAvg(fraction_evaluate=0.0)
    result = strategy.start(grid=grid, initial_arrays=ArrayRecord([np.zeros(2, np.float32)]), num_rounds=2)
    np.testing.assert_array_equal(result.arrays.to_numpy_ndarrays()[0], np.float32([4, 4]))


@pytest.mark.parametrize(
    ("figures", "code"),
    [({"dice": math.nan}, "OF505"), ({"scales": {"logits": math.inf}}, "OF505"), ({"n": 10**400}, "OF503")],
)
def test_a_figure_that_no_honest_site_sends_is_a_miss(figures, code):
    def answer(message, context):
        task, _ = task_of(message.content)
        reply, state = Adder("a").execute(task, {})
        body = json.dumps({**reply.model_dump(), **(figures if task.kind == "fit" else {})})
        packed = pack(state)
        head = ConfigRecord({"body": body, "layout": packed.layout})
        return Message(RecordDict({HEAD: head, STATE: packed.arrays}), reply_to=message)

    app = ClientApp()
    app.query("hello")(answer)
    app.train("fit")(answer)
    (arrival,) = TaskPool(InProcessGrid(app, ["a"])).run(tasks("a"))
    assert arrival.reply.code == code


def test_no_more_replies_than_a_handful_are_in_memory_at_once():
    seen = []

    class Counting(InProcessGrid):
        def pull_messages(self, message_ids):
            seen.append(len(list(message_ids)))
            return super().pull_messages(message_ids)

    sites = [f"s{i}" for i in range(20)]
    pool = TaskPool(Counting(client_app(Adder), sites))
    assert [a.site for a in pool.run(tasks(*sites))] == sites
    assert max(seen) == AT_ONCE
