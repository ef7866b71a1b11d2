"""Keeps a site's three programs alive: the worker, Flower's SuperNode, and the SuperExec that links the two."""

from __future__ import annotations

import json
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from omnifed.errors import OmniFedError
from omnifed.files import write_atomic
from omnifed.processes import Child, alone, flower, flower_env, free_port, listens, unheard
from omnifed.tail import Tail
from omnifed.trust.expiry import warnings_of_site
from omnifed.trust.identity import SiteIdentity
from omnifed_client.config import ClientConfig
from omnifed_client.standing import asked_refusal, known_refusal
from omnifed_client.state_checks import stamp_state

SILENCE_S = 90.0
"""A node without an answer for three heartbeats, while the coordinator is there, is a zombie."""
ENDING_S = 15.0
"""Seconds that the node of a killed client may take to notice it and leave its port."""
HINT_AFTER = 3
"""Quick ends of a program after which the doctor is named."""
REFUSED_AFTER = 3
"""Times that the coordinator is asked whether it really refuses this site."""
POLL_S = 0.5


class Site:
    """A running client.

    Args:
        config: of the site.
        say: prints one line for the user.
        once: leave after one task.
    """

    def __init__(self, config: ClientConfig, say: Callable[[str], None], *, once: bool = False) -> None:
        self.config, self.say, self.once = config, say, once
        self.identity: SiteIdentity | None = None
        self.refusals = 0
        self.connected: bool | None = None
        self.children: tuple[Child, ...] = ()
        self._node_since = self._ending_s = 0.0

    def run(self, tick: Callable[[Site], None] = lambda site: None) -> int:
        """Runs until it is stopped, or once.

        Args:
            tick: called twice a second: the live view.

        Returns:
            Exit status: 0.

        Raises:
            OmniFedError: OF552 if the site's client runs already, OF804 if it has not joined, OF133 if the identity is
                another site's, OF810 to OF813 if the federation does not take it; what is wrong with the data.
        """
        self._identify()
        state = self.config.state
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        with alone(state / "client.lock", f"the client of {self.config.site}") as killed:
            self._ending_s = ENDING_S if killed else 0.0
            stamp_state(self.config)
            # Sockets have short names only, so not below the state folder.
            runtime = Path(tempfile.mkdtemp(prefix="omnifed-"))
            try:
                self._prepare(runtime)
                self._make(runtime)
                return self._loop(tick)
            finally:
                for child in reversed(self.children):
                    child.stop()
                shutil.rmtree(runtime, ignore_errors=True)

    def _identify(self) -> None:
        if self.config.insecure:
            return
        self.identity = SiteIdentity.load(self.config.identity)
        if self.identity.site != self.config.site:
            raise OmniFedError(
                "OF133",
                "A site must have one registered name everywhere.",
                seen=f"--site {self.config.site}, but {self.config.identity} is {self.identity.site}'s",
                remedy="Correct --site, or give each site a state folder of its own.",
            )
        for line in warnings_of_site(self.identity):
            self.say(line)
        if error := known_refusal(self.identity):
            raise error

    def _prepare(self, runtime: Path) -> None:
        """Decodes what is new among the images, in a process whose memory is given back."""
        file = runtime / "config.json"
        write_atomic(file, self.config.model_dump_json().encode(), mode=0o600)
        status = subprocess.run([sys.executable, "-m", "omnifed_client.worker", str(file)]).returncode
        if status:
            raise OmniFedError(
                "OF551",
                "A site's data must be readable before it joins.",
                seen="the lines above" if status == 2 else f"the preparation ended with status {status}",
                remedy="Do what they say, then run: omnifed check DATA, and omnifed-client doctor.",
            )

    def _make(self, runtime: Path) -> None:
        config, logs = self.config, self.config.state / "logs"
        self.socket, self.node_status = runtime / "worker.sock", runtime / "node.json"
        secret = runtime / "secret"
        write_atomic(secret, secrets.token_bytes(32), mode=0o600)
        threads = str(config.worker_threads)
        work = [sys.executable, "-m", "omnifed_client.worker", str(runtime / "config.json"), str(self.socket)]
        env = flower_env(config.state / "flower") | {
            "OMNIFED_WORKER": str(self.socket),
            "OMNIFED_NODE_STATUS": str(self.node_status),
        }
        port = config.node_port or free_port()
        trust = ["--insecure"]
        if self.identity:
            key = str(self.identity.node_key)
            trust = ["--root-certificates", config.roots, "--auth-supernode-private-key", key]
        node = flower(
            *("supernode", "--superlink", config.server, "--host", "127.0.0.1", "--port", str(port), *trust),
            *("--node-config", f'site="{config.site}"'),
            *("--isolation", "process", "--superexec-auth-secret-file", str(secret)),
        )
        execute = flower(
            *("superexec", "--runtime-api-address", f"127.0.0.1:{port}", "--app", "omnifed_client.app:app"),
            *("--superexec-auth-secret-file", str(secret)),
        )
        # Without its SuperNode the SuperExec would wait, and look again after up to ten seconds only.
        there = partial(listens, "127.0.0.1", port)
        self.worker = Child("worker", work, logs / "worker.log", env={"OMP_NUM_THREADS": threads})
        self.node = Child("node", node, logs / "node.log", env=env)
        self.exec = Child("exec", execute, logs / "exec.log", env=env, ready=there)
        self.children = (self.worker, self.node, self.exec)

    def _loop(self, tick: Callable[[Site], None]) -> int:
        tasks = Tail(self.config.state / "events.jsonl")
        tasks.read()
        worked = False
        self._start()
        while True:
            for child in self.children:
                status = child.keep_alive()
                if status is not None:
                    self._ended(child, status)
            self._watch_node()
            tick(self)
            if self.once:
                ends = ("finished", "again", "failed")
                worked = worked or any(e.get("state") in ends and e.get("kind") != "hello" for e in tasks.read())
                if worked and self._status().get("delivered", 0) > 0:
                    self.say("the task is done and its reply delivered")
                    return 0
            time.sleep(POLL_S)

    def _start(self) -> None:
        port, until = self.config.node_port, time.monotonic() + self._ending_s
        while (taken := bool(port) and listens("127.0.0.1", port)) and time.monotonic() < until:
            time.sleep(0.2)
        if taken:
            raise OmniFedError(
                "OF553",
                "The local port of a site's node must be free.",
                seen=str(port),
                remedy="Choose another node_port, or 0 for any free one.",
            )
        for child in self.children:
            child.keep_alive()
        self._node_since = time.time()

    def _ended(self, child: Child, status: int) -> None:
        cause = f"signal {-status}" if status < 0 else f"status {status}"
        if child is self.node:
            self.connected = False
            self._node_since = time.time()
            self.say(f"the connection ended ({cause}); connecting again")
            self._ask_why()
        else:
            self.say(f"the {child.name} process ended ({cause}); it is started again, see {child.log}")
        if child.quick_ends == HINT_AFTER:
            self.say(f"it does not last: run omnifed-client doctor --site {self.config.site} (clock? versions?)")
        if child is self.exec:
            # The SuperNode would wait for the task that was lost with it, and do nothing else; the coordinator sends it
            # again to the next one.
            self.node.stop()

    def _ask_why(self) -> None:
        """Ends this client if the coordinator says again and again that it does not take this site."""
        if self.identity is None:
            return
        error = asked_refusal(self.config, self.identity)
        self.refusals = self.refusals + 1 if error else 0
        if error and self.refusals >= REFUSED_AFTER:
            raise error
        if error:
            self.say(error.public)

    def _watch_node(self) -> None:
        """Tells when the coordinator comes and goes, and restarts a node that no longer hears it."""
        contact = float(self._status().get("contact", 0.0))
        connected = contact > self._node_since and time.time() - contact < SILENCE_S
        if connected != self.connected and (connected or self.connected is not None):
            self.say(f"connected to {self.config.server}" if connected else f"no answer from {self.config.server}")
            self.connected = connected
        if self.node.poll() is None and time.time() - max(contact, self._node_since) > SILENCE_S:
            self._node_since = time.time()
            config = self.config
            roots, direct = config.roots, config.loopback
            if not unheard(config.server, insecure=config.insecure, root_certificates=roots, direct=direct):
                self.say("the coordinator is there, but the node does not hear it: it is started again")
                self.node.stop()

    def _status(self) -> dict[str, float]:
        try:
            return dict(json.loads(self.node_status.read_text()))
        except (OSError, ValueError):
            return {}
