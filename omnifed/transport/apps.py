"""Flower's two applications around our executor and our coordinator."""

from __future__ import annotations

import logging
from collections.abc import Callable

from omnifed.errors import OmniFedError
from omnifed.federation.executor import Executor, ExecutorOf
from omnifed.federation.replies import FailedReply
from omnifed.transport.flower_compat import (
    ClientApp,
    Context,
    Grid,
    Message,
    RecordDict,
    ServerApp,
    bound_pulls,
    identify,
)
from omnifed.transport.records import task_of, to_record
from omnifed.transport.site_seal import GuardOf

log = logging.getLogger("omnifed.transport")

ROUTES = {
    "hello": "query.hello",
    "teach": "train.teach",
    "fit": "train.fit",
    "shares": "train.shares",
    "masked": "train.masked",
    "unmask": "train.unmask",
    "evaluate": "evaluate.score",
    "export": "query.export",
    "trial": "train.trial",
    "bench": "query.bench",
}
"""Message type of each kind of task (Flower knows the categories train, evaluate and query)."""


def client_app(executor_of: ExecutorOf, guard_of: GuardOf = lambda site: None) -> ClientApp:
    """The application of a site, or of many sites in one process.

    Args:
        executor_of: gives the executor of a site, called once a site and process; the name comes from the node's
            configuration (``--node-config 'site="chaos_ct"'``).
        guard_of: checks the envelopes of a site's tasks and signs its replies; None where there are none.
    """
    executors: dict[str, Executor] = {}

    def answer(message: Message, context: Context) -> Message:
        site = str(context.node_config.get("site", ""))
        return Message(_guarded(message.content, site), reply_to=message)

    def _guarded(content: RecordDict, site: str) -> RecordDict:
        try:
            guard = guard_of(site)
        except OmniFedError as error:
            log.error("%s", error)
            return to_record(FailedReply(id="unknown", site=site, code=error.code, rule=error.rule), {})
        return _answer(content, site) if guard is None else guard.answer(content, lambda task: _answer(task, site))

    def _answer(content: RecordDict, site: str) -> RecordDict:
        task_id = "unknown"
        try:
            task, state = task_of(content)
            task_id = task.id
            if not site:
                raise OmniFedError(
                    "OF522",
                    "A node must be started with its site's registered name.",
                    remedy='Add site="NAME" to the node\'s configuration.',
                )
            if site not in executors:
                executors[site] = executor_of(site)
            return to_record(*executors[site].execute(task, state))
        except OmniFedError as error:
            log.error("task %s: %s", task_id, error)
            code, rule = error.code, error.rule
        except Exception as error:
            log.exception("task %s", task_id)
            # The type's name is safe; the message might hold a path or a name, so it stays here.
            code = "OF516"
            rule = f"A site must answer every task ({type(error).__name__}); the site's log has the cause."
        return to_record(FailedReply(id=task_id, site=site, code=code, rule=rule), {})

    app = ClientApp()
    decorators = {"query": app.query, "train": app.train, "evaluate": app.evaluate}
    for route in ROUTES.values():
        category, action = route.split(".")
        decorators[category](action)(answer)
    return app


def server_app(main: Callable[[Grid], None]) -> ServerApp:
    """The coordinator's application: ``main`` gets the grid, around which it puts a
    :class:`~omnifed.transport.pool.TaskPool`.
    """
    app = ServerApp()

    @app.main()
    def _main(grid: Grid, context: Context) -> None:
        identify()
        bound_pulls()
        main(grid)

    return app
