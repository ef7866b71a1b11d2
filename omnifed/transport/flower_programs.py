"""Flower's long-running programs, as this framework runs them.

``python -m omnifed.transport.flower_programs superlink|supernode|superexec ...`` are Flower's own commands with what
their users miss: they end with the program that started them, a SuperLink knows the members of the federation and
nobody else, a SuperNode that has lost its SuperLink ends instead of staying as a zombie with a healthy port, and a
SuperExec runs the installed application only and starts no new Python for each message. With ``flower_compat`` and
``membership`` this is the only file that knows Flower's internals; its test notices when they change.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, cast

from omnifed.transport import flower_compat as flower_compat
from omnifed.transport.installed import installed_hash, refuse
from omnifed.transport.membership import IDENTITY, guard
from omnifed.transport.upload import repeatable

STATUS = "OMNIFED_NODE_STATUS"
"""Environment variable: file in which a SuperNode notes its last contact and what it delivered."""
SOON_S = 2.0
"""Seconds in which a SuperNode that has had a message expects another one, or the reply."""
IDLE_S = 1.0
"""Longest sleep of an idle SuperNode. Flower's 3 s is most of the time between two rounds on a quick network."""
TASK_LOST = 75
"""Exit status of a SuperExec one of whose tasks ended without an answer."""
ENDED = 70
"""Exit status of a program that returned although it should run for ever."""


def superlink() -> None:
    """``flower-superlink``; with an identity (:data:`IDENTITY`) for the members of its federation only."""
    from flwr.superlink import extensions
    from flwr.superlink.cli.flower_superlink import flower_superlink

    _end_with_parent()
    if folder := os.environ.get(IDENTITY):
        extensions.configure_app = partial(guard, Path(folder))
    flower_superlink()


def supernode() -> None:
    """``flower-supernode``."""
    from flwr.supernode import start_client_internal as node
    from flwr.supernode.cli.flower_supernode import flower_supernode
    from flwr.supernode.fleet_http_client import FleetHttpClient

    _end_with_parent()
    status = _NodeStatus(Path(os.environ[STATUS])) if STATUS in os.environ else None
    quick = _QuickTime()
    node.time = quick  # type: ignore[assignment]
    if status:
        for name in ("PullMessages", "SendNodeHeartbeat"):
            setattr(FleetHttpClient, name, status.watch(getattr(FleetHttpClient, name)))
        node._push_messages = status.count(node._push_messages)
    node._push_messages = quick.around(repeatable(node._push_messages))
    flower_supernode()


def superexec() -> None:
    """``flower-superexec`` with :class:`ForkExecutor`."""
    parser = argparse.ArgumentParser("superexec")
    parser.add_argument("--runtime-api-address", required=True)
    parser.add_argument("--superexec-auth-secret-file", type=Path, required=True)
    parser.add_argument("--app", required=True, help="module:attribute of the installed ClientApp")
    options = parser.parse_args()
    os.environ.setdefault("FLWR_SUPEREXEC_TASK_POLL_INTERVAL", "0.25")
    from flwr.supercore.superexec import run_superexec as module
    from flwr.supernode.runtime import run_clientapp as worker

    name, _, attribute = options.app.partition(":")
    app = getattr(importlib.import_module(name), attribute)
    # What a coordinator ships is neither unpacked nor imported: a hospital runs its own installed code.
    worker.install_from_fab = lambda *args, **kwargs: Path()

    def work(answer: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        worker.get_load_client_app_fn = lambda *_, **__: lambda *about: cast(Any, answer)
        worker.run_clientapp(*args, **kwargs)

    executor = ForkExecutor(installed_hash(), partial(work, app), partial(work, refuse))
    _end_with(os.getppid(), executor.close)
    module.get_executor = lambda *args, **kwargs: executor
    secret = options.superexec_auth_secret_file.read_bytes()
    module.run_superexec(options.runtime_api_address, insecure=True, superexec_auth_secret=secret)


class ForkExecutor:
    """Flower's ``Executor``: forks a process that has everything imported, instead of starting a new Python a message.

    An application that is not installed gets an answer too: Flower would offer one that is turned away again and again,
    and its coordinator would never learn why.

    Args:
        fab_hash: of the installed application.
        work: Flower's ``run_clientapp`` with that application.
        refuse: the same with one that refuses every message.
    """

    def __init__(self, fab_hash: str, work: Callable[..., None], refuse: Callable[..., None]) -> None:
        self.fab_hash, self.work, self.refuse, self.pid = fab_hash, work, refuse, os.getpid()
        self.children: set[int] = set()

    def get_eligible_capacity(
        self, supported_task_types: set[Any], *, insecure: bool = False, root_certificates_path: str | None = None
    ) -> tuple[set[Any], set[str]]:
        """ClientApps, one after the other as the SuperNode hands them out."""
        return {kind for kind in supported_task_types if kind == "flwr-clientapp"}, set()

    def wait_for_capacity(self, task_type: Any = None, **about: Any) -> None:
        """There is always room."""

    def launch(self, spec: Any) -> Any:
        """Forks one worker."""
        from flwr.supercore.superexec.executor import LaunchResult

        pid = os.fork()
        if pid:
            self.children.add(pid)
            return LaunchResult.accepted()
        status = 1
        try:
            _forget_handlers()
            _end_with(self.pid)
            work = self.work if spec.fab_hash == self.fab_hash else self.refuse
            work(spec.runtime_api_address, spec.token, insecure=spec.insecure)
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 0
        except BaseException as error:  # this process must end here whatever happened: it is a copy of the SuperExec
            print(f"clientapp: {type(error).__name__}", file=sys.stderr)
        finally:
            sys.stdout.flush()
            os._exit(status)

    def reconcile(self) -> None:
        """Reaps finished workers; ends with a worker that was killed.

        The SuperNode knows nothing of that worker's end and would wait for it: both are started again.
        """
        for pid in list(self.children):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                self.children.discard(pid)
                if os.WIFSIGNALED(status):
                    self.close()
                    os._exit(TASK_LOST)

    def close(self) -> None:
        """Ends the workers."""
        if os.getpid() != self.pid:
            return
        for pid in self.children:
            os.kill(pid, signal.SIGTERM)


class _QuickTime:
    """The ``time`` module with shorter sleeps, and brief ones for the moment after a message has passed.

    A private round is four short exchanges one after the other: what comes next is there in a second.
    """

    def __init__(self) -> None:
        self._stirred = float("-inf")

    def stir(self) -> None:
        """A message has passed."""
        self._stirred = time.monotonic()

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)

    def sleep(self, seconds: float) -> None:
        """At most :data:`IDLE_S`; for :data:`SOON_S` after a message a sixth of what Flower would sleep, and no more
        than a quarter of a second: a request for work costs CPU time at both ends.
        """
        soon = time.monotonic() - self._stirred < SOON_S
        time.sleep(min(seconds / 6, 0.25) if soon else min(seconds, IDLE_S))

    def around(self, push: Callable[..., None]) -> Callable[..., None]:
        """Flower's ``_push_messages``, which waits for the reply to a message that was pulled, and sends it."""

        def stirred(**stores: Any) -> None:
            self.stir()
            push(**stores)
            self.stir()

        return stirred


class _NodeStatus:
    """What a supervisor cannot see from outside: when the SuperLink answered last, and what was delivered.

    Told by two threads, the node's work and its heartbeat. Flower ends a heartbeat at any exception, and a node without
    one is offline for good a minute later: a note may be lost, it never fails.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.contact, self.delivered, self.lost = path, 0.0, 0, 0
        self._writing = threading.Lock()

    def watch(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """Notes the time of each answer."""

        def watched(*args: Any, **kwargs: Any) -> Any:
            result = call(*args, **kwargs)
            self.contact = time.time()
            self._write()
            return result

        return watched

    def count(self, push: Callable[..., None]) -> Callable[..., None]:
        """Counts replies to tasks (not to greetings) that have reached the SuperLink, and those that were dropped."""

        def counted(*, send: Callable[..., Any], push_object: Callable[..., Any], **stores: Any) -> None:
            kinds: list[str] = []
            failed: list[BaseException] = []

            def noting(step: Callable[..., Any]) -> Callable[..., Any]:
                def noted(*args: Any) -> Any:
                    if step is send:
                        kinds.append(args[0].metadata.message_type)
                    try:
                        return step(*args)
                    except BaseException as error:
                        failed.append(error)
                        raise

                return noted

            push(send=noting(send), push_object=noting(push_object), **stores)
            if any(kind != "query.hello" for kind in kinds):
                self.delivered, self.lost = self.delivered + (not failed), self.lost + bool(failed)
                self._write()

        return counted

    def _write(self) -> None:
        part = self.path.with_suffix(".part")
        with self._writing, suppress(OSError):
            part.write_text(json.dumps({"contact": self.contact, "delivered": self.delivered, "lost": self.lost}))
            part.replace(self.path)


def _end_with_parent() -> None:
    from flwr.supercore.app_utils import start_parent_process_monitor

    start_parent_process_monitor(os.getppid())


def _end_with(parent: int, first: Callable[[], None] = lambda: None) -> None:
    """Ends this process within a second of its parent, whatever it is doing.

    By a timer: Flower's monitor is a thread, which a process that forks must not have, and which cannot wake a main
    thread that waits in a call. A fork does not inherit it.
    """

    def look(number: int, frame: object) -> None:
        if os.getppid() != parent:
            first()
            os._exit(0)

    signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, 1.0, 1.0)


def _forget_handlers() -> None:
    """A fork must not run what its parent does when it ends."""
    from flwr.supercore.exit import exit_handler

    exit_handler.registered_exit_handlers.clear()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


def main() -> None:
    """Runs the program that the first argument names."""
    program = sys.argv.pop(1)
    {"superlink": superlink, "supernode": supernode, "superexec": superexec}[program]()
    # A SuperNode whose SuperLink no longer knows it returns from its loop; its web server's thread would live on.
    sys.stdout.flush()
    os._exit(ENDED)


if __name__ == "__main__":
    main()
