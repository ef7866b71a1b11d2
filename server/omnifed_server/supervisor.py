"""Keeps a campaign going: Flower's SuperLink, the application that it runs, nginx, and all again after a crash."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from omnifed.errors import OmniFedError
from omnifed.events import EventLog
from omnifed.files import write_atomic, write_json
from omnifed.processes import Child, Stop, alone, flower, flower_env, free_port, holder, listens, unheard
from omnifed.transport.installed import APP
from omnifed.transport.membership import IDENTITY
from omnifed.trust.expiry import warnings_of_coordinator
from omnifed.trust.identity import CoordinatorIdentity
from omnifed_server.app_files import CONFIG, EVENTS, LOCK, OUTCOME, PROCESS, RUN
from omnifed_server.federation_file import FederationConfig
from omnifed_server.front import LOOPBACK_HOSTS, Front, no_front

POLL_S = 0.5
HEALTHY_S = 90.0
"""Seconds that a SuperLink has to answer; it takes some three on an idle machine."""
SUBMIT_S = 120.0
MAX_CRASHES = 8
"""Crashes in a row without anything new on disk, after which the campaign is left to a person."""
FRONT_S = 10.0
"""Seconds that nginx has to listen."""
ENDING_S = 15.0
"""Seconds that the programs of a killed coordinator may take to notice it and leave the port."""
LINK = "coordinator"
FINISHED, PAUSED, BROKEN = 0, 3, 4
"""Exit statuses: the campaign is finished; it cannot go on without a person (too few sites, a full disk) and is kept;
Flower cannot be kept running. 2 is bad input, 130 and 143 are Ctrl-C and SIGTERM."""


class Coordinator:
    """A running coordinator.

    Args:
        config: the campaign.
        folder: RUN.
        say: prints one line for the user.

    Raises:
        OmniFedError: OF801, OF802, OF803 or OF805 if the identity cannot be used, OF815 if there is no nginx.
    """

    def __init__(self, config: FederationConfig, folder: Path, say: Callable[[str], None]) -> None:
        self.config, self.folder, self.say = config, folder.resolve(), say
        logs, home = self.folder / "logs", self.folder / "flower"
        self.env = flower_env(home) | {RUN: str(self.folder), "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
        # Flower serves what sites need and what starts programs on one port: it never listens beyond this machine.
        self.host, self.port = config.host, config.port
        self.tls = Path(config.identity).expanduser().resolve()
        self.identity = None if config.insecure else CoordinatorIdentity.load(self.tls)
        self.env[IDENTITY] = str(self.tls) if self.identity else ""
        self.front: Front | None = None
        if self.identity:
            self.identity.roster()
            if config.host not in LOOPBACK_HOSTS:
                self.host, self.port = "127.0.0.1", free_port()
                place = self.folder / "nginx"
                self.front = Front(config.host, config.port, self.tls, self.port, place, logs / "nginx.log")
        address = ["--host", self.host, "--port", str(self.port)]
        files = {"--ssl-certfile": "server.pem", "--ssl-keyfile": "server.key", "--ssl-ca-certfile": "ca.pem"}
        options = [word for option, name in files.items() for word in (option, str(self.tls / name))]
        tls = [*options, "--enable-supernode-auth"] if self.identity else ["--insecure"]
        command = flower("superlink", *address, *tls, "--disable-runtime-dependency-installation")
        self.link = Child("superlink", command, logs / "superlink.log", env=self.env)
        self.submitted = 0.0

    def run(self, tick: Callable[[], None] = lambda: None) -> int:
        """Runs the campaign to its end.

        Args:
            tick: called twice a second: the live view.

        Returns:
            Exit status, see :data:`FINISHED`.

        Raises:
            OmniFedError: OF552 if a coordinator works in the folder already, OF554 if the port is taken, OF555 if
                Flower cannot be kept running, OF815 if nginx cannot be started.
        """
        with alone(self.folder / "server.lock", "a coordinator") as killed:
            (self.folder / OUTCOME).unlink(missing_ok=True)
            write_json(self.folder / CONFIG, self.config.model_dump(mode="json"))
            self._write_flower()
            self._end_application()
            if self.front:
                self.front.clear()
            self._check_port(ENDING_S if killed else 0.0)
            for line in warnings_of_coordinator(self.identity) if self.identity else []:
                self.say(line)
            try:
                return self._loop(tick)
            except Stop:
                self.link.stop()
                self._end_application()
                EventLog(self.folder / EVENTS).add("campaign", {"state": "stopped", "name": self.config.name})
                raise
            finally:
                if self.front:
                    self.front.stop()
                self.link.stop()

    def _loop(self, tick: Callable[[], None]) -> int:
        crashes, seen = 0, set[str]()
        while True:
            if self.link.poll() is not None or not self.link.starts:
                self._start_link()
            if self.front and not self.front.child.starts:
                self._start_front(self.front)
            self._submit()
            while True:
                tick()
                if self.front and (status := self.front.keep_alive()) is not None:
                    self.say(f"nginx ended with status {status}; it is started again, see {self.front.log}")
                outcome = self._read(OUTCOME)
                if outcome:
                    tick()
                    return self._end(outcome)
                cause = self._crash()
                if cause:
                    break
                time.sleep(POLL_S)
            kept = _kept(self.folder)
            crashes, seen = (1 if kept - seen else crashes + 1), seen | kept
            if crashes > MAX_CRASHES:
                raise _broken(f"{cause}, {crashes} times without progress", self.link)
            if not self._read(PROCESS):
                # What starts applications, a program of the SuperLink's own, may have gone: only a fresh one helps.
                self.link.stop()
            self.say(f"{cause}; the campaign is taken up again")
            time.sleep(min(30.0, 2.0 ** (crashes - 1)))

    def _crash(self) -> str:
        """What has ended that should run; "" if nothing has."""
        status = self.link.poll()
        if status is not None:
            return f"the SuperLink ended with status {status}"
        process = self._read(PROCESS)
        if process:
            return "" if _alive(int(process["pid"])) else "the coordinator's process ended"
        return "the coordinator's process did not start" if time.monotonic() - self.submitted > SUBMIT_S else ""

    def _start_link(self) -> None:
        self.link.start()
        until, config = time.monotonic() + HEALTHY_S, self.config
        while self.link.poll() is None and time.monotonic() < until:
            why = unheard(
                self._address(), insecure=config.insecure, root_certificates=str(self.tls / "ca.pem"), direct=True
            )
            if not why:
                return
            time.sleep(0.2)
        cause = "it ended" if self.link.poll() is not None else f"no answer within {HEALTHY_S:.0f} s ({why})"
        self.link.stop()
        raise _broken(f"the SuperLink could not be started: {cause}", self.link)

    def _start_front(self, front: Front) -> None:
        front.start()
        until = time.monotonic() + FRONT_S
        while front.child.poll() is None and time.monotonic() < until:
            if listens(self._published(), self.config.port):
                return
            time.sleep(0.1)
        front.stop()
        why = front.child.tail() or "nginx does not listen"
        raise no_front(why, f"See {front.log} (a port below 1024 needs a right of its own)")

    def _submit(self) -> None:
        """Hands Flower the application, a few lines that only point at the installed package."""
        self._end_application()
        (self.folder / PROCESS).unlink(missing_ok=True)
        command = ["flwr", "run", str(self.folder / "app"), LINK, "--format", "json"]
        env = os.environ | self.env
        try:
            result = subprocess.run(command, capture_output=True, text=True, env=env, timeout=SUBMIT_S)
            said = "" if not result.returncode else f"status {result.returncode}: {result.stderr or result.stdout}"
        except subprocess.TimeoutExpired:
            said = f"no answer within {SUBMIT_S:.0f} s"
        self.submitted = time.monotonic()
        if said:
            self.say(f"flwr run ended with {said.strip()[-400:]}")
            self.submitted -= SUBMIT_S

    def _end_application(self) -> None:
        """Ends an application that outlived its SuperLink or its supervisor: it would write beside the next one."""
        until = time.monotonic() + ENDING_S
        while (pid := holder(self.folder / LOCK)) and time.monotonic() < until:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)

    def _write_flower(self) -> None:
        scheme = "insecure = true" if self.config.insecure else f'root-certificates = "{self.tls / "ca.pem"}"'
        connection = f'[superlink]\ndefault = "{LINK}"\n\n[superlink.{LINK}]\naddress = "{self._address()}"\n{scheme}\n'
        write_atomic(self.folder / "flower" / "config.toml", connection.encode())
        write_atomic(self.folder / "app" / "pyproject.toml", APP.encode())

    def _address(self) -> str:
        """Of the SuperLink, on this machine."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def _published(self) -> str:
        """Where this machine reaches what the configuration names."""
        return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.config.host, self.config.host)

    def _check_port(self, patience_s: float) -> None:
        host, until = self._published(), time.monotonic() + patience_s
        while (taken := listens(host, self.config.port)) and time.monotonic() < until:
            time.sleep(0.2)
        if taken:
            raise OmniFedError(
                "OF554",
                "The coordinator's port must be free.",
                seen=f"{self.config.host}:{self.config.port} is taken",
                remedy="Stop the program that listens there, or choose another port in the federation's file.",
            )

    def _read(self, name: str) -> dict[str, Any]:
        try:
            return dict(json.loads((self.folder / name).read_bytes()))
        except (OSError, ValueError):
            return {}

    def _end(self, outcome: dict[str, Any]) -> int:
        if outcome["state"] == "finished":
            return FINISHED
        self.say(str(outcome["message"]))
        return PAUSED


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return not _zombie(pid)


def _zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (OSError, IndexError):
        return False


def _kept(folder: Path) -> set[str]:
    """Names of what a campaign has kept so far. Its events are no measure of progress: an application that crashes
    again and again greets the sites each time.
    """
    files = (path for pattern in ("*.json", "arms/**/*", "stages/**/*") for path in folder.glob(pattern))
    return {str(path.relative_to(folder)) for path in files if not path.name.startswith(".")}


def _broken(cause: str, link: Child) -> OmniFedError:
    return OmniFedError(
        "OF555",
        "Flower's SuperLink and the coordinator's application must keep running.",
        seen=f"{cause}\n{link.tail()}",
        remedy=f"See {link.log}; then run the same command again: what is finished is kept.",
    )
