"""The same federation over a Ray cluster: sites are spread over actors, each keeps its sites to the end.

Replies come in the order in which the tasks were sent, whoever is ready first: a run is the same as in process.
"""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

from omnifed.errors import OmniFedError
from omnifed.transport.apps import client_app
from omnifed.transport.flower_compat import ClientApp, Context, Message, RecordDict, identify
from omnifed.transport.inprocess import InProcessGrid, Schedule


class RayGrid(InProcessGrid):
    """Runs the sites on Ray actors.

    Args:
        factory: ``package.module:function``, called once an actor with ``arguments``; gives the executor of a site by
            name (:data:`omnifed.federation.executor.ExecutorOf`). Must be importable on every machine of the cluster.
        arguments: keyword arguments of the factory; must be picklable.
        sites: registered names.
        workers: actors; site i lives on actor i modulo workers.
        cpus: of each actor; also its number of threads. Weights equal an in-process run's bit for bit at equal threads.
        address: of a running cluster; None starts Ray on this machine.
        schedule: virtual clock.

    Raises:
        OmniFedError: OF520 if Ray is not installed or the factory cannot be imported.
    """

    def __init__(
        self,
        factory: str,
        arguments: Mapping[str, Any],
        sites: Sequence[str],
        *,
        workers: int,
        cpus: int = 1,
        address: str | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        _import(factory)
        super().__init__(ClientApp(), sites, schedule=schedule)
        self._ray = ray = _ray()
        if not ray.is_initialized():
            local: dict[str, Any] = {} if address else {"num_cpus": workers * cpus, "include_dashboard": False}
            ray.init(address=address, log_to_driver=False, **local)
            self._own = True
        else:
            self._own = False
        actor = ray.remote(num_cpus=cpus)(SiteActor)
        self._actors = [actor.remote(factory, dict(arguments), cpus) for _ in range(min(workers, len(self.sites)))]
        self._running: dict[str, Any] = {}

    def close(self) -> None:
        """Ends the actors, and Ray if it was started here."""
        for actor in self._actors:
            self._ray.kill(actor)
        if self._own:
            self._ray.shutdown()

    def _start(self, message_id: str) -> None:
        message, delivery = self._pending[message_id]
        if self.schedule.drops_out(delivery):
            return
        node = message.metadata.dst_node_id
        actor = self._actors[(node - 1) % len(self._actors)]
        self._running[message_id] = actor.work.remote(message, node, delivery.site)

    def _work(self, message_id: str, message: Message) -> tuple[Message, float]:
        return self._ray.get(self._running.pop(message_id))


class SiteActor:
    """One Ray actor: the application of its sites."""

    def __init__(self, factory: str, arguments: dict[str, Any], threads: int) -> None:
        identify()
        self.app = client_app(_import(factory)(**arguments))
        self.contexts: dict[int, Context] = {}
        try:
            import torch

            torch.set_num_threads(threads)
        except ImportError:
            pass

    def work(self, message: Message, node: int, site: str) -> tuple[Message, float]:
        """Runs the application on one message; the reply and the seconds that it took."""
        context = self.contexts.setdefault(node, Context(1, node, {"site": site}, RecordDict(), {}))
        started = time.perf_counter()
        return self.app(message, context), time.perf_counter() - started


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise OmniFedError(
            "OF520",
            "The Ray backend needs Ray and an executor factory that can be imported on every machine.",
            seen="ray is not installed",
            remedy="pip install 'omnifed[sim]', or use the in-process backend.",
        ) from None
    return ray


def _import(factory: str) -> Any:
    module, _, name = factory.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise OmniFedError(
            "OF520",
            "The Ray backend needs Ray and an executor factory that can be imported on every machine.",
            seen=f"{factory}: {error}",
            remedy="Name it as package.module:function.",
        ) from None
    return found
