"""A deployed federation of real processes on this machine, small enough to be killed all day."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from PIL import Image

from omnifed.processes import free_port
from omnifed.trust.authority import admit, found, revoke
from omnifed.trust.enrolment import enrol, join
from omnifed.trust.policy import FILE, sign_policy
from omnifed.trust.proposal import first_policy
from omnifed.trust.signing import SigningKey

MARK, SITE = "OMNIFED_TEST_MARK", "OMNIFED_TEST_SITE"
"""Variables of the environment of every process that a federation of the tests starts, however indirectly."""
SIDE = 32
SCRIPTS = Path(sys.executable).parent
TEACHER = {
    "kind": "sam-tiny",
    "size": 64,
    "views": 1,
    "train": {"steps": 2, "batch_size": 2, "validate_every": 0, "warmup": 0},
}
SETTINGS: dict[str, Any] = {
    "name": "test",
    "arms": ["fedbn"],
    "stages": ["prepare", "train", "evaluate"],
    "rounds": 2,
    "steps": 2,
    "batch_size": 2,
    "student": "omnisegnet:alpha=0.6,beta=0.5,stem_stride=2",
    "teacher": TEACHER,
    "wait_s": 90,
    "host": "127.0.0.1",
    "insecure": True,
}
Event = dict[str, Any]


def make_site(folder: Path, name: str, images: int = 8) -> Path:
    """A site of ``images`` grey squares, one patient each: half of them train."""
    folder.mkdir(parents=True)
    rows = ["image,mask,patient"]
    draw = np.random.default_rng([ord(letter) for letter in name])
    for k in range(images):
        pixels = draw.integers(0, 120, (SIDE, SIDE), dtype=np.uint8)
        mask = np.zeros((SIDE, SIDE), np.uint8)
        top, left = draw.integers(4, 14, 2)
        mask[top : top + 12, left : left + 12] = 1
        Image.fromarray(pixels + mask * np.uint8(120)).save(folder / f"i{k}.png")
        Image.fromarray(mask).save(folder / f"m{k}.png")
        rows.append(f"i{k}.png,m{k}.png,patient{k}")
    (folder / "index.csv").write_text("\n".join(rows) + "\n")
    (folder / "site.toml").write_text(
        f'name = "{name}"\nmodality = "mri"\nimage_size = [{SIDE}, {SIDE}]\n'
        '[labels]\n0 = "background"\n1 = "square"\n[normalisation]\nkind = "percentile"\n'
    )
    return folder


@dataclass(frozen=True)
class Process:
    """One process of a federation.

    Attributes:
        pid: process id.
        parent: its parent's.
        role: server, superlink, server-exec, serverapp, nginx, nginx-worker; client, worker, task, supernode,
            superexec, clientapp, prepare; "other".
        site: "" at the coordinator.
        command: arguments.
    """

    pid: int
    parent: int
    role: str
    site: str
    command: tuple[str, ...]


class Federation:
    """One coordinator and its sites, everything below ``folder``. A context manager that kills what is left at its end.

    Args:
        folder: empty.
        sites: names; each gets its made images.
        env: added to the environment of all processes.
        images: a site.
        identity: TLS, keys and a roster; all sites are admitted and have joined. Else plain HTTP.
        admitted: of the sites, if not all.
        address: HOST:PORT that the kits name, if not the coordinator's own port.
        settings: of the federation file, on top of :data:`SETTINGS`; the quorum is all sites unless given, so that
            no fault may change the result.
    """

    def __init__(
        self,
        folder: Path,
        sites: Iterable[str] = ("north", "east"),
        *,
        env: Mapping[str, str] | None = None,
        images: int = 8,
        identity: bool = False,
        admitted: Iterable[str] | None = None,
        address: str = "",
        **settings: Any,
    ) -> None:
        self.folder, self.sites, self.run = folder, tuple(sites), folder / "run"
        self.port, self.mark = free_port(), uuid.uuid4().hex
        self.file = folder / "federation.toml"
        quorum = max(1.0, float(len(self.sites)))
        self.settings = {**SETTINGS, "sites": list(self.sites), "port": self.port, "quorum": quorum, **settings}
        folder.mkdir(parents=True, exist_ok=True)
        self.coordinator, self.identity = folder / "coordinator", identity
        if identity:
            del self.settings["insecure"]
            self.settings["identity"] = str(self.coordinator)
            found(self.coordinator, "test", address or f"127.0.0.1:{self.port}")
            for site in self.sites if admitted is None else admitted:
                self.admit(site)
        self.file.write_text(toml(self.settings))
        for site in self.sites:
            make_site(self.data(site), site, images)
            # One thread everywhere: sums in another order would be other weights.
            own = folder / "sites" / f"{site}.toml"
            own.parent.mkdir(exist_ok=True)
            own.write_text(f'site = "{site}"\nthreads = 1\nmin_free_gb = 0\n')
        extra = {MARK: self.mark, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "COLUMNS": "200"}
        self.env = os.environ | extra | dict(env or {})
        self.server: subprocess.Popen[bytes] | None = None
        self.clients: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Federation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.tell()
        for process in self.processes():
            _kill(process.pid, signal.SIGKILL)
        for started in (self.server, *self.clients.values()):
            if started:
                started.wait(10)

    # Belonging --------------------------------------------------------------------------------------------------

    def admit(self, site: str) -> None:
        """Enrols, admits and joins a site."""
        own = self.state(site) / "identity"
        join(own, admit(self.coordinator, enrol(own, site)))

    def tell_counts(self) -> None:
        """Signs policies under which the counts of the tests' few images leave as they are: they weigh the mean."""
        for site in self.sites:
            own = self.state(site) / "identity"
            key = SigningKey.load(own / "site.key")
            first_policy(own, key)
            text = (own / FILE).read_text()
            assert "min_cases = 20 " in text
            (own / FILE).write_text(text.replace("min_cases = 20 ", "min_cases = 1 "))
            sign_policy(own, key)

    def revoke(self, site: str) -> None:
        """Ends the membership of a site."""
        revoke(self.coordinator, site)

    # Starting ---------------------------------------------------------------------------------------------------

    def data(self, site: str) -> Path:
        """Folder of a site's images."""
        return self.folder / "data" / site

    def state(self, site: str) -> Path:
        """State folder of a site."""
        return self.folder / "state" / site

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs ``omnifed-server`` or ``omnifed-client`` to its end, at most a minute."""
        command = [str(SCRIPTS / arguments[0]), *arguments[1:]]
        return subprocess.run(command, env=self.env, cwd=self.folder, capture_output=True, text=True, timeout=60)

    def start_server(self, *arguments: str, env: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Starts the coordinator: with the federation's file, or with ``arguments`` (for example ``resume``, RUN)."""
        arguments = arguments or ("--federation", str(self.file), "--out", str(self.run))
        self.server = self._start("server.log", ["omnifed-server", *arguments], env or {})
        return self.server

    def start_client(
        self, site: str, *arguments: str, server: str = "", env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Starts a site's client.

        Args:
            site: which.
            arguments: more of the command line.
            server: HOST:PORT where that is not the coordinator's own (a proxy of the test).
            env: added to the environment.
        """
        command = [
            *("omnifed-client", "--site", site, "--data", str(self.data(site)), "--state", str(self.state(site))),
            *self.reach(server),
            *arguments,
        ]
        self.clients[site] = self._start(f"client-{site}.log", command, {SITE: site, **(env or {})})
        return self.clients[site]

    def reach(self, server: str = "") -> tuple[str, ...]:
        """Options of a client for its way to ``server``: with identity the kit knows it."""
        insecure = () if self.identity else ("--insecure",)
        given = server or ("" if self.identity else f"127.0.0.1:{self.port}")
        return (*(("--server", given) if given else ()), *insecure)

    def start(self) -> None:
        """Starts the coordinator and all clients."""
        self.start_server()
        for site in self.sites:
            self.start_client(site)

    def _start(self, log: str, command: list[str], env: Mapping[str, str]) -> subprocess.Popen[bytes]:
        with (self.folder / log).open("ab") as file:
            return subprocess.Popen(
                [str(SCRIPTS / command[0]), *command[1:]],
                env=self.env | dict(env),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    # Watching ---------------------------------------------------------------------------------------------------

    def events(self) -> list[Event]:
        """The coordinator's events so far."""
        return read_events(self.run / "events.jsonl")

    def site_events(self, site: str) -> list[Event]:
        """The events of a site's worker so far."""
        return read_events(self.state(site) / "events.jsonl")

    def wait_event(
        self, matches: Callable[[Event], bool], seconds: float = 90.0, *, after: int = 0, site: str = ""
    ) -> Event:
        """Waits for an event.

        Args:
            matches: which.
            seconds: at most.
            after: so many events at the beginning do not count.
            site: look at this site's own events instead of the coordinator's.
        """
        events = (lambda: self.site_events(site)) if site else self.events
        found: list[Event] = []

        def look() -> bool:
            found[:] = [event for event in events()[after:] if matches(event)]
            return bool(found)

        wait(look, seconds, "an event")
        return found[0]

    def log(self, name: str) -> str:
        """Output of ``server`` or ``client-SITE``."""
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def processes(self) -> list[Process]:
        """Those of this federation that run now, whoever is their parent."""
        for started in (self.server, *self.clients.values()):
            if started:
                started.poll()  # a zombie looks alive to its children, and would stay one until it is asked for
        raw = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and (found := _inspect(entry, self.mark) or _nginx(entry, self.folder)):
                raw[found.pid] = found
        return [_with_parent(process, raw) for process in raw.values()]

    def pids(self, role: str, site: str | None = None) -> list[int]:
        """Process ids of a role."""
        return [p.pid for p in self.processes() if p.role == role and site in (None, p.site)]

    def wait_pid(self, role: str, site: str | None = None, seconds: float = 60.0, *, other: int = 0) -> int:
        """Waits for a process of a role (with another id than ``other``) and gives its id."""
        found: list[int] = []

        def look() -> bool:
            found[:] = [pid for pid in self.pids(role, site) if pid != other]
            return bool(found)

        wait(look, seconds, f"a process: {role}")
        return found[0]

    def kill(self, role: str, site: str | None = None, sig: int = signal.SIGKILL, seconds: float = 60.0) -> int:
        """Sends a signal to the process of a role as soon as there is one; its id."""
        pid = self.wait_pid(role, site, seconds)
        _kill(pid, sig)
        return pid

    # The end ----------------------------------------------------------------------------------------------------

    def finish(self, seconds: float = 150.0) -> int:
        """Waits for the coordinator's exit status, then stops the clients."""
        assert self.server
        status = self.server.wait(seconds)
        self.stop_clients()
        return status

    def stop_clients(self, seconds: float = 20.0) -> None:
        """Ends all clients as an operator would."""
        for client in self.clients.values():
            if client.poll() is None:
                client.terminate()
        for client in self.clients.values():
            client.wait(seconds)

    def left_behind(self, seconds: float = 10.0) -> list[Process]:
        """Processes that are still there after so many seconds; empty as soon as there is none."""
        until = time.monotonic() + seconds
        while (left := self.processes()) and time.monotonic() < until:
            time.sleep(0.2)
        return left

    def final(self) -> dict[str, bytes]:
        """What must not depend on what happened on the way: the coordinator's states and scores, the sites' models."""
        names = ("arms/*/*.safetensors", "metrics.csv", "sites.json", "taught.json")
        files = {str(p.relative_to(self.run)): p.read_bytes() for n in names for p in sorted(self.run.glob(n))}
        for site in self.sites:
            for campaign in self.state(site).glob("campaigns/*"):
                for path in sorted(campaign.glob("arms/*/*.safetensors")):
                    files[f"{site}/{path.relative_to(campaign)}"] = path.read_bytes()
        return files

    def counted(self) -> Counter[tuple[str, int, str]]:
        """How often each (arm, round, site) is in the coordinator's records."""
        count: Counter[tuple[str, int, str]] = Counter()
        for path in self.run.glob("arms/*/round-*.json"):
            record = json.loads(path.read_bytes())
            count.update((path.parent.name, record["round"], site) for site in record["dice"])
        return count

    def check_counts(self) -> None:
        """Each site counts once in each round of each arm, is told as new once at most, and has its scores once."""
        arms, rounds = self.settings["arms"], range(self.settings["rounds"])
        assert self.counted() == Counter(
            (arm, round_, site) for arm in arms for round_ in rounds for site in self.sites
        )
        told = [e for e in self.events() if e["event"] == "round"]
        new = Counter((e["arm"], e["round"], e["site"]) for e in told if not e.get("again"))
        assert not new or max(new.values()) == 1, new
        assert {(e["arm"], e["round"], e["site"]) for e in told} == set(self.counted())
        if "evaluate" in self.settings["stages"]:
            with (self.run / "metrics.csv").open() as file:
                rows = Counter((r["arm"], r["site"], r["class"], r["metric"]) for r in csv.DictReader(file))
            assert max(rows.values()) == 1, rows

    def tell(self) -> None:
        """Prints what one wants to read when a test has failed."""
        for event in self.events():
            print({key: value for key, value in event.items() if key not in ("loss", "scales")})
        for path in [*self.folder.glob("*.log"), *self.run.glob("logs/*.log"), *self.folder.glob("state/*/logs/*.log")]:
            print(f"--- {path.relative_to(self.folder)}")
            print("\n".join(path.read_text(errors="replace").splitlines()[-25:]))
        for process in self.processes():
            print(process)


class Wire:
    """A slow line to a coordinator: a proxy on a port of its own, whose way up is throttled while it is told to be.

    Args:
        port: of the coordinator on this machine.
    """

    def __init__(self, port: int) -> None:
        self.target, self.up, self.bytes_per_s = port, 0, 0.0
        self._ends: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            near, _ = self._listener.accept()
            try:
                far = socket.create_connection(("127.0.0.1", self.target), timeout=5)
                far.settimeout(None)
            except OSError:
                near.close()
                continue
            self._ends += [near, far]
            for way in ((near, far, True), (far, near, False)):
                threading.Thread(target=self._carry, args=way, daemon=True).start()

    def cut(self) -> None:
        """Ends all connections; what was on its way is lost."""
        for end in self._ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._ends.clear()

    def _carry(self, source: socket.socket, sink: socket.socket, up: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(16384):
                if up:
                    self.up += len(data)
                    if self.bytes_per_s:
                        time.sleep(len(data) / self.bytes_per_s)
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def wait(done: Callable[[], bool], seconds: float, what: str, every: float = 0.1) -> None:
    """Waits until ``done``."""
    until = time.monotonic() + seconds
    while not done():
        if time.monotonic() >= until:
            raise TimeoutError(f"{what} was not there after {seconds:g} s")
        time.sleep(every)


def read_events(path: Path) -> list[Event]:
    """The whole lines of an event log."""
    try:
        text = path.read_text()
    except OSError:
        return []
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines() if line.startswith("{")]


def toml(values: Mapping[str, Any], prefix: str = "") -> str:
    """``values`` as TOML: plain values first, then tables and lists of tables."""
    tables = {key: value for key, value in values.items() if isinstance(value, Mapping)}
    lists = {
        key: value
        for key, value in values.items()
        if isinstance(value, list) and value and isinstance(value[0], Mapping)
    }
    plain = {key: value for key, value in values.items() if key not in {**tables, **lists}}
    lines = [f"{key} = {json.dumps(value)}" for key, value in plain.items()]
    for key, value in tables.items():
        lines += [f"[{prefix}{key}]", toml(value, f"{prefix}{key}.")]
    for key, rows in lists.items():
        lines += [text for row in rows for text in (f"[[{prefix}{key}]]", toml(row))]
    return "\n".join(lines)


def _kill(pid: int, sig: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, sig)


_ROLES = (
    ("flower_programs superlink", "superlink"),
    ("flower_programs supernode", "supernode"),
    ("flower_programs superexec", "superexec"),
    ("flower-superexec", "server-exec"),
    ("flwr-serverapp", "serverapp"),
    ("flwr-clientapp", "clientapp"),
    ("worker.sock", "worker"),
    ("omnifed_client.worker", "prepare"),
    ("omnifed-server --federation", "server"),
    ("omnifed-server resume", "server"),
    ("omnifed-client --site", "client"),
)


def _inspect(entry: Path, mark: str) -> Process | None:
    try:
        environment = dict(
            pair.split("=", 1) for pair in (entry / "environ").read_text(errors="replace").split("\0") if "=" in pair
        )
        if environment.get(MARK) != mark:
            return None
        command = (entry / "cmdline").read_text(errors="replace").split("\0")[:-1]
        state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
    except OSError:
        return None
    if state in "ZX":
        return None
    line = " ".join(command)
    role = next((name for part, name in _ROLES if part in line), "other")
    return Process(int(entry.name), int(parent), role, environment.get(SITE, ""), tuple(command))


def _nginx(entry: Path, folder: Path) -> Process | None:
    """nginx writes its title over its environment: it is known by its log."""
    try:
        if (entry / "comm").read_text() != "nginx\n" or not os.readlink(entry / "fd" / "1").startswith(f"{folder}/"):
            return None
        role = "nginx" if "master process" in (entry / "cmdline").read_text() else "nginx-worker"
        parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
    except OSError:
        return None
    return Process(int(entry.name), int(parent), role, "", ())


def _with_parent(process: Process, others: Mapping[int, Process]) -> Process:
    """A fork has its parent's command line: a worker below a worker is a task."""
    parent = others.get(process.parent)
    forks = {"worker": "task", "superexec": "clientapp"}
    if process.role in forks and parent and parent.role == process.role:
        return Process(process.pid, process.parent, forks[process.role], process.site, process.command)
    return process
