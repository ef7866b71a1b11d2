"""The process that does a site's work: torch is loaded once, each task runs in a fork of its own.

It is apart from Flower's processes, which come and go with the network: a task that has begun goes on while the
connection, the node or the coordinator is away, its reply is kept, and the same task asked again is answered from the
store. Memory of a task ends with its process; one that is killed is a reply with a number, not the end of the site.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

from safetensors.numpy import load, save

from omnifed.data.prepare import SiteData, prepare
from omnifed.data.site_folder import load_site
from omnifed.errors import OmniFedError
from omnifed.events import EventLog
from omnifed.federation.replies import FailedReply, Reply
from omnifed.federation.tasks import TASK, HelloTask, Task
from omnifed.files import write_json
from omnifed.states import State
from omnifed_client.config import ClientConfig
from omnifed_client.guarded import guarded, identity_of, policy_of
from omnifed_client.status import Status, turn
from omnifed_client.store import SiteStore

KILLED = FailedReply(
    id="unknown",
    site="",
    code="OF517",
    rule="The process of a task must live until its reply.",
)


def site_data(config: ClientConfig, progress: Callable[[int, int, str], None] | None = None) -> SiteData:
    """The site's prepared splits; found in a moment where nothing has changed.

    Raises:
        OmniFedError: what is wrong with the data; OF133 if the data is another site's.
    """
    site = load_site(config.data)
    if site.config.name != config.site:
        raise OmniFedError(
            "OF133",
            "A site must have one registered name everywhere.",
            seen=f"--site {config.site}, but {config.data} is named {site.config.name}",
            remedy="Correct --site or --data, or the name in site.toml.",
        )
    return prepare(site, config.state / "prepared", progress=progress)


class Worker:
    """Listens on a Unix socket and forks a process a task.

    Args:
        config: of the client.
        path: of the socket.
    """

    def __init__(self, config: ClientConfig, path: Path) -> None:
        self.config, self.path = config, path
        self.events = EventLog(config.state / "events.jsonl")
        self.status = Status(config.state / "status.json")
        self.parent = os.getppid()
        self.children: dict[int, Connection] = {}

    def serve(self) -> None:
        """Serves until the parent ends."""
        listener = socket.socket(socket.AF_UNIX)
        self.path.unlink(missing_ok=True)
        listener.bind(str(self.path))
        listener.listen(16)
        signal.signal(signal.SIGTERM, lambda number, frame: self._end())
        self.status.clear()
        while os.getppid() == self.parent:
            self._reap()
            if not select.select([listener], [], [], 0.1)[0]:
                continue
            link, _ = listener.accept()
            connection = Connection(link.detach())
            pid = os.fork()
            if pid:
                self.children[pid] = connection
            else:
                listener.close()
                self._child(connection)
        self._end()

    def _reap(self) -> None:
        for pid in list(self.children):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                connection = self.children.pop(pid)
                if status:
                    print(f"the process of a task ended with status {status}", flush=True)
                    self.status.clear()
                    _answer(connection, KILLED.model_copy(update={"site": self.config.site}), {})
                connection.close()

    def _end(self) -> None:
        for pid in self.children:
            os.kill(pid, signal.SIGKILL)
        os._exit(0)

    def _child(self, connection: Connection) -> None:
        """The life of one fork."""
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _die_with_parent()
        status = 1
        try:
            task = TASK.validate_json(connection.recv_bytes())
            state = load(connection.recv_bytes())
            if isinstance(task, HelloTask):
                reply, upload = self._execute(task, state)
                if isinstance(reply, FailedReply):
                    self._tell_failure(task, reply)
                _answer(connection, reply, upload)
            else:
                with turn(self.config.state / "work.lock", task.id, self._cancelled):
                    reply, upload = self._work(task, state)
                _answer(connection, reply, upload)
            status = 0
        except BaseException as error:  # this process must end here whatever happened: it is a copy of the worker
            print(f"{type(error).__name__}: {error}", flush=True)
        finally:
            os._exit(status)

    def _work(self, task: Task, state: State) -> tuple[Reply, State]:
        about = {"kind": task.kind, "id": task.id}
        again = SiteStore(self.config.state, task.campaign).is_finished(task)
        if not again:
            self.events.add("task", {**about, "state": "started"})
            self.status.begin(task.kind, task.id)
        reply, upload = self._execute(task, state)
        self.status.clear()
        if isinstance(reply, FailedReply):
            self._tell_failure(task, reply)
        else:
            self.events.add("task", {**about, "state": "again" if again else "finished", "seconds": reply.seconds})
        return reply, upload

    def _tell_failure(self, task: Task, reply: FailedReply) -> None:
        about = {"kind": task.kind, "id": task.id, "state": "failed"}
        self.events.add("task", {**about, "code": reply.code, "rule": reply.rule})

    def _cancelled(self, task_id: str) -> None:
        self.events.add("task", {"id": task_id, "state": "cancelled"})

    def _execute(self, task: Task, state: State) -> tuple[Reply, State]:
        from omnifed_client.executor import SiteExecutor

        config = self.config
        try:
            # Both read anew for each task: keys are rotated and policies signed while a client runs.
            identity = identity_of(config)
            policy = policy_of(config, identity)
            executor = SiteExecutor(
                site_data(config),
                config.state,
                checkpoints=Path(config.checkpoints) if config.checkpoints else None,
                progress=self.status.progress,
                identity=identity,
                epsilon_limit=(policy.epsilon or None) if policy else None,
            )
            return guarded(config, executor, policy, identity).execute(task, state)
        except OmniFedError as error:
            print(error, flush=True)
            return FailedReply(id=task.id, site=config.site, code=error.code, rule=error.rule), {}


def _answer(connection: Connection, reply: Reply, state: State) -> None:
    # Who asked may have gone: the reply is in the store, and the coordinator will ask again.
    with contextlib.suppress(OSError):
        connection.send_bytes(reply.model_dump_json().encode())
        connection.send_bytes(save(state))


def _die_with_parent() -> None:
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def _load_torch() -> None:
    """Everything that the forks would import; no tensor is made, as threads do not survive a fork."""

    # The first optimiser of a process imports this: two seconds of each fit.
    import torch._dynamo  # noqa: F401

    import omnifed_client.executor  # noqa: F401


def main() -> None:
    """``python -m omnifed_client.worker CONFIG.json SOCKET``; without a socket the data is prepared and that is all."""
    config = ClientConfig.model_validate_json(Path(sys.argv[1]).read_bytes())
    try:
        if len(sys.argv) > 2:
            _load_torch()
            Worker(config, Path(sys.argv[2])).serve()
        else:
            _die_with_parent()
            _prepare(config)
    except OmniFedError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


def _prepare(config: ClientConfig) -> None:
    from rich.progress import Progress

    with Progress(transient=True) as bars:
        bar = bars.add_task("preparing the images", total=None)
        data = site_data(config, lambda done, total, text: bars.update(bar, completed=done, total=total))
    counts = {"train": len(data.train), "val": len(data.val), "test": len(data.test), "skipped": len(data.skipped)}
    write_json(config.state / "data.json", counts)
    print(", ".join(f"{count} {split}" for split, count in counts.items()))
    for text in data.warnings:
        print(f"note: {text}")


if __name__ == "__main__":
    main()
